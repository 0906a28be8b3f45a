# Has systemd run the containers, with the few units that this takes: it makes their cgroups when it is asked by D-Bus.
busybox mkdir -p /etc/systemd/system /run/dbus
busybox ln -s /run /var/run
cat >/etc/systemd/system.conf <<X
[Manager]
LogTarget=kmsg
ShowStatus=no
DefaultStandardOutput=null
DefaultStandardError=null
X
cat >/etc/systemd/system/dbus.socket <<X
[Unit]
DefaultDependencies=no
[Socket]
ListenStream=/run/dbus/system_bus_socket
X
cat >/etc/systemd/system/dbus.service <<X
[Unit]
DefaultDependencies=no
Requires=dbus.socket
[Service]
ExecStart=/usr/bin/dbus-daemon --config-file=/keep/bus.conf --address=systemd: --nofork --nopidfile
X
cat >/etc/systemd/system/keep.service <<X
[Unit]
DefaultDependencies=no
Requires=dbus.service
After=dbus.service
[Service]
Environment=SLICE=keep.slice
Delegate=yes
ExecStart=/usr/bin/busybox sh -c 'exec >/dev/ttyS1 2>/dev/ttyS0; . /keep/containers.sh; echo end; busybox poweroff -f'
X
cat >/etc/systemd/system/keep.target <<X
[Unit]
DefaultDependencies=no
Requires=keep.service
X
cat >/keep/bus.conf <<X
<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN" "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <type>system</type>
  <listen>unix:path=/run/dbus/system_bus_socket</listen>
  <auth>EXTERNAL</auth>
  <policy context="default">
    <allow user="*"/>
    <allow own="*"/>
    <allow send_destination="*"/>
    <allow receive_sender="*"/>
  </policy>
</busconfig>
X
exec /usr/lib/systemd/systemd --unit=keep.target
