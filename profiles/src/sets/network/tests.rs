use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

use super::*;

fn reach(words: &[&str]) -> Reach {
    let endpoints: Vec<Endpoint> = words.iter().map(|word| word.parse().unwrap()).collect();
    Reach::new(&endpoints)
}

fn text(reach: &Reach) -> Vec<String> {
    reach.endpoints().iter().map(ToString::to_string).collect()
}

fn canonical(words: &[&str]) -> Vec<String> {
    text(&reach(words))
}

/// Whether `words`, read one by one, let `address` be reached at `port`.
fn admits(endpoints: &[Endpoint], protocol: Protocol, address: IpAddr, port: u16) -> bool {
    endpoints.iter().any(|endpoint| match endpoint {
        Endpoint::Ports { network, ports } => {
            ports.protocol == protocol
                && (ports.first..=ports.last).contains(&port)
                && network.is_none_or(|network| network.contains(address))
        }
        Endpoint::Dns | Endpoint::Unix(_) => false,
    })
}

/// Networks and ports from a small world, so that they meet often.
fn endpoint() -> impl Strategy<Value = Endpoint> {
    let network = select(&[
        "",
        "0.0.0.0/0:",
        "10.0.0.0/8:",
        "10.0.0.0/9:",
        "10.128.0.0/9:",
        "10.1.2.3:",
        "10.1.2.2/31:",
        "[::/0]:",
        "[::/1]:",
        "[8000::/1]:",
        "[2001:db8::/32]:",
        "[2001:db8::1]:",
    ]);
    let ports = (1u16..12, 0u16..6, select(&["tcp", "udp"]))
        .prop_map(|(first, more, protocol)| format!("{first}-{}/{protocol}", first + more));
    let of_ports = (network, ports).prop_map(|(network, ports)| format!("{network}{ports}").parse().unwrap());
    let others =
        select(&["dns", "unix:/run", "unix:/run/x", "unix:/runx"]).prop_map(|word| word.parse().unwrap());
    prop_oneof![8 => of_ports, 1 => others]
}

fn probes() -> impl Iterator<Item = (Protocol, IpAddr, u16)> {
    let addresses =
        ["10.1.2.2", "10.1.2.3", "10.200.0.1", "11.0.0.1", "2001:db8::1", "2001:db8::2", "ff00::1"];
    addresses.into_iter().flat_map(|address| {
        (0..18).flat_map(move |port| {
            [Protocol::Tcp, Protocol::Udp].map(|protocol| (protocol, address.parse().unwrap(), port))
        })
    })
}

proptest! {
    #[test]
    fn each_operation_is_that_of_what_is_reached(a in vec(endpoint(), 0..6), b in vec(endpoint(), 0..6)) {
        let (one, other) = (Reach::new(&a), Reach::new(&b));
        let either = Reach::new(a.iter().chain(&b));
        let [both, either, left] =
            [one.intersection(&other), either, one.difference(&other)].map(|reach| reach.endpoints());
        for (protocol, address, port) in probes() {
            let (in_a, in_b) = (admits(&a, protocol, address, port), admits(&b, protocol, address, port));
            prop_assert_eq!(admits(&both, protocol, address, port), in_a && in_b);
            prop_assert_eq!(admits(&either, protocol, address, port), in_a || in_b);
            prop_assert_eq!(admits(&left, protocol, address, port), in_a && !in_b);
        }
    }

    #[test]
    fn the_same_reach_has_the_same_endpoints(a in vec(endpoint(), 0..6), b in vec(endpoint(), 0..6)) {
        let (one, other) = (Reach::new(&a), Reach::new(&b));
        prop_assert_eq!(one == other, one.endpoints() == other.endpoints());
        prop_assert_eq!(&Reach::new(&one.endpoints()), &one, "what is written is what is read");
        let halves = [one.intersection(&other).endpoints(), one.difference(&other).endpoints()].concat();
        let joined = Reach::new(&halves);
        prop_assert!(joined.tcp == one.tcp && joined.udp == one.udp, "cut and joined it is the same again");
    }
}

#[test]
fn overlapping_and_adjacent_ports_become_one_range() {
    assert_eq!(canonical(&["80/tcp", "81-90/tcp", "85-99/tcp", "81/udp"]), ["80-99/tcp", "81/udp"]);
    assert_eq!(canonical(&["1-65535/tcp", "65535/tcp"]), ["1-65535/tcp"]);
    assert_eq!(canonical(&["80/tcp", "82/tcp"]), ["80/tcp", "82/tcp"]);
}

#[test]
fn what_a_wider_network_grants_is_dropped_and_nothing_else() {
    assert_eq!(canonical(&["443/tcp", "10.0.0.0/8:443/tcp"]), ["443/tcp"]);
    assert_eq!(canonical(&["10.0.0.0/8:443/tcp", "10.1.0.0/16:443/tcp"]), ["10.0.0.0/8:443/tcp"]);
    assert_eq!(
        canonical(&["10.0.0.0/8:443/tcp", "12.0.0.0/8:443/tcp", "10.0.0.1:80/tcp"]),
        ["10.0.0.0/8:443/tcp", "10.0.0.1:80/tcp", "12.0.0.0/8:443/tcp"]
    );
}

#[test]
fn neighbouring_networks_become_one() {
    assert_eq!(canonical(&["10.0.0.0/9:1/tcp", "10.128.0.0/9:1/tcp"]), ["10.0.0.0/8:1/tcp"]);
    assert_eq!(canonical(&["0.0.0.0/0:1/tcp", "[::/0]:1/tcp"]), ["1/tcp"]);
}

#[test]
fn a_denied_address_is_cut_out_of_every_network() {
    let left = reach(&["443/tcp"]).difference(&reach(&["169.254.169.254:1-65535/tcp"]));
    let endpoints = left.endpoints();
    assert_eq!(endpoints.len(), 33, "32 networks of IPv4, and IPv6");
    let reached = |address: &str| admits(&endpoints, Protocol::Tcp, address.parse().unwrap(), 443);
    assert!(!reached("169.254.169.254") && reached("169.254.169.253") && reached("169.254.169.255"));
    assert!(reached("0.0.0.0") && reached("255.255.255.255") && reached("::1"));
}

#[test]
fn a_folder_of_sockets_that_holds_a_denied_one_goes_whole() {
    let left = reach(&["unix:/run", "unix:/var/x"]).difference(&reach(&["unix:/run/docker.sock"]));
    assert_eq!(text(&left), ["unix:/var/x"]);
}

#[test]
fn as_many_endpoints_as_a_label_can_hold_take_no_time_to_speak_of() {
    let endpoint = |n: usize| {
        let (high, low) = (n / 250, n % 250);
        format!("10.{high}.{low}.{}:{}-{}/tcp", 2 * (n % 100), 1 + n, 65_000 - n).parse().unwrap()
    };
    let endpoints: Vec<Endpoint> = (0..crate::labels::MAX_ENTRIES).map(endpoint).collect();
    let begin = std::time::Instant::now();
    let reach = Reach::new(&endpoints);
    let left = reach.difference(&Reach::new(&["10.0.0.0/9:1-65535/tcp".parse().unwrap()]));
    assert_eq!(left.endpoints().len(), 0);
    // Far above what it takes (a few milliseconds), so that a busy machine cannot fail it.
    assert!(begin.elapsed().as_secs() < 20, "{:?}", begin.elapsed());
    println!("{:?}", begin.elapsed());
}
