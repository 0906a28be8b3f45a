#!/bin/sh
# Does its work every $PERIOD seconds, for ever.
while :; do
    date > /data/last.new
    mv /data/last.new /data/last
    sleep "$PERIOD"
done
