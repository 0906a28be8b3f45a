//! HTTP servers behind the walls of whole profiles, as labels give them.

use std::collections::BTreeMap;
use std::path::Path;

use profiles::plan::plan;
use profiles::policy::Policy;
use profiles::profile::compute;
use profiles::{Plan, labels};
use sandbox::facts::probe;

use crate::confine::*;
use crate::{Case, needs_landlock};

pub(crate) const CASES: &[Case] =
    &[("http_servers_serve_behind_the_walls_of_their_labels_and_nothing_is_recorded", serve)];

/// Most calls that such a profile allows.
const MOST: usize = 200;

const PERL: &str = "use Socket; $| = 1; socket(S, AF_INET, SOCK_STREAM, 0) or die $!; setsockopt(S, SOL_SOCKET, SO_REUSEADDR, 1);
    bind(S, sockaddr_in(18473, INADDR_LOOPBACK)) or die $!; listen(S, 5) or die $!;
    if (!fork) { socket(C, AF_INET, SOCK_STREAM, 0); connect(C, sockaddr_in(18473, INADDR_LOOPBACK)) or die $!;
        send(C, qq(GET / HTTP/1.0\\r\\n\\r\\n), 0); print <C>; exit }
    accept(C, S); sysread(C, $_, 99); send(C, qq(HTTP/1.0 200 OK\\r\\n\\r\\nhello), 0); close C; wait; system '/bin/true'";

const PYTHON: &str = "import http.server, subprocess, threading, urllib.request
class Hello(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        subprocess.run(['/bin/true'], check=True)
        self.send_response(200); self.end_headers(); self.wfile.write(b'hello')
server = http.server.ThreadingHTTPServer(('127.0.0.1', 18473), Hello)
threading.Thread(target=server.serve_forever, daemon=True).start()
print(urllib.request.urlopen('http://127.0.0.1:18473/').read()); server.shutdown()";

const NODE: &str = "const http = require('http'), {execFileSync} = require('child_process');
const server = http.createServer((_, answer) => { execFileSync('/bin/true'); answer.end('hello') });
server.listen(18473, '127.0.0.1', () => http.get('http://127.0.0.1:18473/', answer =>
    answer.on('data', text => console.log('' + text)).on('end', () => process.exit())));";

/// Program, its arguments, and what it needs.
const SERVERS: [(&str, &[&str], &str); 3] = [
    ("/usr/bin/perl", &["-e", PERL], ""),
    ("/usr/bin/python3", &["-I", "-B", "-c", PYTHON], ""),
    ("/usr/bin/node", &["-e", NODE], "jit"),
];

fn profiled(program: &str, needs: &str) -> Plan {
    let labels: BTreeMap<String, String> = [
        ("dev.keep.intent", "v1"),
        ("dev.keep.exec", "/bin/true"),
        ("dev.keep.listen", "18473/tcp"),
        ("dev.keep.connect", "18473/tcp dns"),
        ("dev.keep.needs", needs),
    ]
    .map(|(key, value)| (key.to_owned(), value.to_owned()))
    .into();
    let policy = Policy::builtin("keep").unwrap();
    let computed = compute(labels::parse(&labels), Some(program), &policy).unwrap();
    plan(&computed.profile, &probe()).unwrap()
}

fn serve() {
    needs_landlock(1, "the program wall");
    for (program, arguments, needs) in SERVERS {
        if !Path::new(program).exists() {
            println!("(left out, not installed: {program})");
            continue;
        }
        let plan = profiled(program, needs);
        assert!(plan.seccomp_calls_allowed() <= MOST, "{program}: {}", plan.seccomp_calls_allowed());
        let outcome = run(&plan, &[&[program], arguments].concat());
        assert!(outcome.output.contains("hello"), "{program}: {outcome:?}");
        assert_eq!((outcome.code(), outcome.records()), (0, Vec::new()), "{program}");
    }
}
