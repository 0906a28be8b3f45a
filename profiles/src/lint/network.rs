//! Rules about ports.

use super::{Lint, Place, rule};
use crate::intent::{PortRange, canonical_listen};

/// Below this a port takes a capability, unless the pod's `net.ipv4.ip_unprivileged_port_start` says otherwise.
/// Source: `PROT_SOCK`, include/net/sock.h.
const FIRST_FREE: u16 = 1024;

pub(super) fn check(lint: &mut Lint<'_>) {
    privileged(lint);
    exposed(lint);
}

fn privileged(lint: &mut Lint<'_>) {
    if lint.intent.caps.iter().any(|cap| cap.as_str() == "NET_BIND_SERVICE") {
        return;
    }
    for entry in lint.entries("listen") {
        let Ok(ports) = entry.word.parse::<PortRange>() else { continue };
        if ports.first < FIRST_FREE {
            let message =
                format!("{ports} is below {FIRST_FREE}, which takes the capability NET_BIND_SERVICE");
            let help = format!(
                "listen on {}/{}, or add dev.keep.caps=\"NET_BIND_SERVICE\"",
                u32::from(ports.first) + 8000,
                ports.protocol
            );
            lint.add(rule::PRIVILEGED_PORT, entry.place(), message, help);
        }
    }
}

fn exposed(lint: &mut Lint<'_>) {
    let facts = lint.facts();
    if facts.exposed.is_empty() {
        return;
    }
    let declared = canonical_listen(&lint.intent.listen);
    let exposed = canonical_listen(&facts.exposed.iter().copied().collect());
    let covered = |by: &[PortRange], ports: &PortRange| by.iter().any(|range| range.covers(ports));
    for (at, ports) in facts.exposed.iter().enumerate() {
        if !covered(&declared, ports) {
            let message = format!(
                "{ports} is exposed, and dev.keep.listen does not have it, so that binding it is refused"
            );
            let help = format!("add {ports} to dev.keep.listen, or remove it from EXPOSE");
            lint.add(rule::EXPOSE_DIFFERS, Place::Exposed(at), message, help);
        }
    }
    for entry in lint.entries("listen") {
        let Ok(ports) = entry.word.parse::<PortRange>() else { continue };
        if !covered(&exposed, &ports) {
            let message = format!("{ports} is declared, and EXPOSE does not have it");
            lint.add(
                rule::EXPOSE_DIFFERS,
                entry.place(),
                message,
                format!("add EXPOSE {ports}, or remove it here"),
            );
        }
    }
}
