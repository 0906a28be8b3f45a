//! Declared ∩ ceilings − denials, with a notice for everything that is taken away.

use std::collections::BTreeSet;

use super::Bounds;
use crate::intent::{AbsPath, Capability, Endpoint, Intent, Need, PortRange, Protocol, canonical_listen};
use crate::labels::{Notice, PREFIX};
use crate::policy::{Ceiling, Policy, Rule};
use crate::record::listed;
use crate::sets::{Ranges, Reach, narrowed, overlapping, topmost};

/// Of more endpoints it is not told apart what each lost: the work would grow with their number and the ceiling's.
const TOLD_APART: usize = 32;

/// What is granted, each kind in its normal form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Granted {
    /// Not reduced to the topmost: naming a script grants its interpreter, naming its folder does not.
    pub(super) exec: BTreeSet<AbsPath>,
    pub(super) exec_beneath: BTreeSet<AbsPath>,
    tcp: Ranges,
    udp: Ranges,
    pub(super) connect: Reach,
    pub(super) write: BTreeSet<AbsPath>,
    pub(super) read: BTreeSet<AbsPath>,
    pub(super) caps: BTreeSet<Capability>,
    pub(super) needs: BTreeSet<Need>,
}

/// What a rule does to one kind of grant: keeps some of it, and says what of each entry it took.
struct Cut<'a> {
    by: &'a str,
    notices: &'a mut Vec<Notice>,
}

impl Granted {
    /// All that `intent` asks for.
    pub(super) fn of(intent: &Intent) -> Self {
        Self {
            exec: intent.exec.clone(),
            exec_beneath: BTreeSet::new(),
            tcp: ports(&intent.listen, Protocol::Tcp),
            udp: ports(&intent.listen, Protocol::Udp),
            connect: Reach::new(&intent.connect),
            write: topmost(&intent.write),
            read: topmost(&intent.read),
            caps: intent.caps.clone(),
            needs: intent.needs.clone(),
        }
    }

    /// `listen` in its normal form.
    pub(super) fn listen(&self) -> Vec<PortRange> {
        let of = |ranges: &Ranges, protocol| -> Vec<PortRange> {
            let port = |number: u128| u16::try_from(number).unwrap_or(u16::MAX);
            ranges
                .iter()
                .map(|(first, last)| PortRange { protocol, first: port(first), last: port(last) })
                .collect()
        };
        [of(&self.tcp, Protocol::Tcp), of(&self.udp, Protocol::Udp)].concat()
    }

    /// What every ceiling leaves and no denial takes, with a [`Notice::Clamped`] for each entry that lost something.
    pub(super) fn clamped(mut self, policy: &Policy) -> (Self, Vec<Notice>) {
        let mut notices = Vec::new();
        // Denials first: they take a folder whole that holds a denied path. Were a ceiling to cut the folder down before,
        // something of it could stay, and a further ceiling would have widened.
        for Rule { by, is } in &policy.denied {
            let by = format!("a hard deny of {by}");
            self.without(is, &mut Cut { by: &by, notices: &mut notices });
        }
        for Rule { by, is } in &policy.ceilings {
            self.under(is, &mut Cut { by, notices: &mut notices });
        }
        (self, notices)
    }

    fn under(&mut self, ceiling: &Ceiling, cut: &mut Cut<'_>) {
        if let Some(left) = &ceiling.exec {
            self.programs_under(left, cut);
        }
        if let Some(left) = &ceiling.listen {
            self.ports(cut, |own, protocol| own.intersection(&ports(left, protocol)));
        }
        if let Some(left) = &ceiling.connect {
            let left = Reach::new(left);
            self.connect = cut.reach(&self.connect, |own| own.intersection(&left));
        }
        if let Some(left) = &ceiling.write {
            self.write = cut.paths("write", &self.write, |path| narrowed(path, left));
        }
        if let Some(left) = &ceiling.read {
            self.read = cut.paths("read", &self.read, |path| narrowed(path, left));
        }
        if let Some(left) = &ceiling.caps {
            cut.names("caps", &mut self.caps, |cap| left.contains(cap));
        }
        if let Some(left) = &ceiling.needs {
            cut.names("needs", &mut self.needs, |need| left.contains(need));
        }
    }

    fn without(&mut self, denied: &Intent, cut: &mut Cut<'_>) {
        // A folder that holds a denied path goes whole: no entry says "all but one".
        let apart =
            |path: &AbsPath, from: &BTreeSet<AbsPath>| !from.iter().any(|entry| overlapping(path, entry));
        cut.names("exec", &mut self.exec, |path| apart(path, &denied.exec));
        cut.names("exec", &mut self.exec_beneath, |path| apart(path, &denied.exec));
        if !denied.listen.is_empty() {
            self.ports(cut, |own, protocol| own.difference(&ports(&denied.listen, protocol)));
        }
        if !denied.connect.is_empty() {
            let denied = Reach::new(&denied.connect);
            // What was taken says more than the many networks that are left around a denied address.
            let taken = self.connect.difference(&self.connect.difference(&denied)).endpoints();
            let taken: Vec<String> = taken.iter().map(Endpoint::to_string).collect();
            for endpoint in taken.chunks(if taken.len() > TOLD_APART { taken.len() } else { 1 }) {
                cut.took("connect", listed(endpoint), Vec::new());
            }
            self.connect = self.connect.difference(&denied);
        }
        cut.names("write", &mut self.write, |path| apart(path, &denied.write));
        cut.names("read", &mut self.read, |path| apart(path, &denied.read));
        cut.names("caps", &mut self.caps, |cap| !denied.caps.contains(cap));
        cut.names("needs", &mut self.needs, |need| !denied.needs.contains(need));
    }

    fn programs_under(&mut self, ceiling: &BTreeSet<AbsPath>, cut: &mut Cut<'_>) {
        let ceiling = topmost(ceiling);
        let mut beneath = BTreeSet::new();
        let whole = |path: &AbsPath| narrowed(path, &ceiling).contains(path);
        for path in self.exec.iter().filter(|path| !whole(path)) {
            let left = narrowed(path, &ceiling);
            cut.took("exec", path.to_label(), left.iter().map(AbsPath::to_label).collect());
            beneath.extend(left);
        }
        self.exec.retain(whole);
        beneath.extend(cut.paths("exec", &self.exec_beneath, |path| narrowed(path, &ceiling)));
        let granted = |path: &AbsPath| self.exec.iter().any(|own| path.is_beneath(own));
        self.exec_beneath = topmost(&beneath).into_iter().filter(|path| !granted(path)).collect();
    }

    fn ports(&mut self, cut: &mut Cut<'_>, keep: impl Fn(&Ranges, Protocol) -> Ranges) {
        for (own, protocol) in [(&mut self.tcp, Protocol::Tcp), (&mut self.udp, Protocol::Udp)] {
            let left = keep(own, protocol);
            let text = |(first, last): (u128, u128)| match first == last {
                true => format!("{first}/{protocol}"),
                false => format!("{first}-{last}/{protocol}"),
            };
            for range in own.iter() {
                let one: Ranges = [range].into_iter().collect();
                let remains = one.intersection(&left);
                if remains != one {
                    cut.took("listen", text(range), remains.iter().map(text).collect());
                }
            }
            *own = left;
        }
    }
}

impl Cut<'_> {
    fn took(&mut self, list: &str, value: String, left: Vec<String>) {
        let key = format!("{PREFIX}{list}");
        self.notices.push(Notice::Clamped { key, value, left, by: self.by.to_owned() });
    }

    fn names<T: Ord + ToString>(&mut self, list: &str, own: &mut BTreeSet<T>, keep: impl Fn(&T) -> bool) {
        own.retain(|name| {
            let kept = keep(name);
            if !kept {
                self.took(list, name.to_string(), Vec::new());
            }
            kept
        });
    }

    fn paths(
        &mut self,
        list: &str,
        own: &BTreeSet<AbsPath>,
        keep: impl Fn(&AbsPath) -> BTreeSet<AbsPath>,
    ) -> BTreeSet<AbsPath> {
        let mut all = BTreeSet::new();
        for path in own {
            let left = keep(path);
            if !left.contains(path) {
                self.took(list, path.to_label(), left.iter().map(AbsPath::to_label).collect());
            }
            all.extend(left);
        }
        topmost(&all)
    }

    fn reach(&mut self, own: &Reach, keep: impl Fn(&Reach) -> Reach) -> Reach {
        let text = |reach: &Reach| reach.endpoints().iter().map(Endpoint::to_string).collect::<Vec<_>>();
        let left = keep(own);
        let endpoints = own.endpoints();
        if left != *own && endpoints.len() > TOLD_APART {
            self.took("connect", listed(&text(own)), text(&left));
        } else if left != *own {
            for endpoint in endpoints {
                let one = Reach::new([&endpoint]);
                let remains = keep(&one);
                if remains != one {
                    self.took("connect", endpoint.to_string(), text(&remains));
                }
            }
        }
        left
    }
}

fn ports(set: &BTreeSet<PortRange>, protocol: Protocol) -> Ranges {
    let of = canonical_listen(set).into_iter().filter(|range| range.protocol == protocol);
    of.map(|range| (range.first.into(), range.last.into())).collect()
}

/// Where paths must lie that only the image tells: within every ceiling that there is, and apart from what is denied.
pub(super) fn bounds<'a>(
    policy: &'a Policy,
    left: impl Fn(&'a Ceiling) -> Option<&'a BTreeSet<AbsPath>>,
    denied: impl Fn(&'a Intent) -> &'a BTreeSet<AbsPath>,
) -> Bounds {
    let ceilings = policy.ceilings.iter().filter_map(|rule| left(&rule.is));
    let both = |one: BTreeSet<AbsPath>, other: &BTreeSet<AbsPath>| {
        topmost(&one.iter().flat_map(|path| narrowed(path, other)).collect())
    };
    let within = ceilings.fold(None, |within: Option<BTreeSet<AbsPath>>, ceiling| {
        Some(match within {
            None => topmost(ceiling),
            Some(within) => both(within, ceiling),
        })
    });
    let denied = policy.denied.iter().flat_map(|rule| denied(&rule.is)).cloned().collect();
    Bounds { within, denied: topmost(&denied) }
}
