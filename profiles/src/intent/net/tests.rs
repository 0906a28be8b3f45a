use super::*;

fn problem(word: &str) -> (usize, String) {
    let error = word.parse::<Endpoint>().unwrap_err();
    (error.at, error.problem)
}

#[test]
fn canonical_text_is_parsed_back_unchanged() {
    for word in [
        "443/tcp",
        "8000-8010/udp",
        "10.0.0.0/8:443/tcp",
        "10.0.0.1:1-65535/udp",
        "0.0.0.0/0:443/tcp",
        "[2001:db8::/32]:443/tcp",
        "[::1]:53/udp",
        "dns",
        "unix:/run/a%20b.sock",
    ] {
        assert_eq!(word.parse::<Endpoint>().unwrap().to_string(), word);
    }
}

#[test]
fn other_spellings_become_canonical() {
    for (word, canonical) in [
        ("10.0.0.1/32:443/tcp", "10.0.0.1:443/tcp"),
        ("[2001:DB8:0::/32]:443-443/tcp", "[2001:db8::/32]:443/tcp"),
        ("unix://run/./x", "unix:/run/x"),
    ] {
        assert_eq!(word.parse::<Endpoint>().unwrap().to_string(), canonical);
    }
}

#[test]
fn a_wrong_endpoint_says_where_and_what_was_meant() {
    for (word, at, part) in [
        ("example.com:443/tcp", 0, "host name"),
        ("example.com", 0, "host name"),
        ("https://example.com", 0, "URL"),
        ("10.0.0.1/8:443/tcp", 0, "write 10.0.0.0/8 for the network or 10.0.0.1 for the host"),
        ("10.0.0.0/33:443/tcp", 9, "0 to 32"),
        ("10.0.0.0/8", 0, "write 10.0.0.0/8:443/tcp"),
        ("2001:db8::1", 0, "write [2001:db8::1]:443/tcp"),
        ("2001:db8::1:443/tcp", 0, "brackets"),
        ("[2001:db8::1", 0, "not closed"),
        ("[2001:db8::1]443/tcp", 13, "no port"),
        ("[2001:db8::1]:0/tcp", 14, "port 0"),
        ("[10.0.0.1]:1/tcp", 0, "write 10.0.0.1:1/tcp"),
        ("[::ffff:10.0.0.1]:1/tcp", 1, "write 10.0.0.1"),
        ("10.0.0.300:443/tcp", 0, "not an IPv4 address"),
        ("10.0.0.1:443", 9, "443/tcp or 443/udp"),
        ("DNS", 0, "did you mean \"dns\""),
        ("unix:run/x", 5, "not absolute"),
        ("443/sctp", 4, "tcp and udp"),
    ] {
        let (found_at, found) = problem(word);
        assert!(found_at == at && found.contains(part), "{word}: {found_at}: {found}");
    }
}

#[test]
fn a_wrong_port_says_where_and_what_was_meant() {
    for (word, at, part) in [
        ("8080", 0, "write 8080/tcp or 8080/udp"),
        ("tcp/8080", 0, "write 8080/tcp"),
        ("8080/TCP", 5, "write 8080/tcp"),
        ("8080/", 5, "write 8080/tcp or 8080/udp"),
        ("0/tcp", 0, "port 0"),
        ("65536/tcp", 0, "highest is 65535"),
        ("1-65536/tcp", 2, "highest is 65535"),
        ("10-1/tcp", 0, "write 1-10/tcp"),
        ("+80/tcp", 0, "not a port"),
        ("-/tcp", 0, "not a port"),
        ("http", 0, "not a port"),
    ] {
        let error = word.parse::<PortRange>().unwrap_err();
        assert!(error.at == at && error.problem.contains(part), "{word}: {}: {}", error.at, error.problem);
    }
}

#[test]
fn a_network_contains_its_own_addresses_only() {
    let network: Cidr = "10.0.0.0/8".parse().unwrap();
    assert!(network.contains("10.255.0.1".parse().unwrap()));
    assert!(!network.contains("11.0.0.1".parse().unwrap()) && !network.contains("::1".parse().unwrap()));
    let all: Cidr = "0.0.0.0/0".parse().unwrap();
    assert!(all.contains("1.2.3.4".parse().unwrap()) && !all.contains("::1".parse().unwrap()));
}
