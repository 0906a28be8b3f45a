use super::*;

fn says(schema: &Value, document: &Value) -> Vec<String> {
    let validator = jsonschema::validator_for(schema).expect("a valid schema");
    validator.iter_errors(document).map(|error| format!("{}: {error}", error.instance_path())).collect()
}

fn read(path: &str) -> String {
    std::fs::read_to_string(build::root().join(path)).expect(path)
}

#[test]
fn schemas_and_definition_are_as_the_types_are() {
    assert_eq!(drifted().expect("schemas"), Vec::<String>::new());
}

#[test]
fn the_golden_profile_is_one_and_one_that_lacks_a_field_is_not() {
    let good: Value = serde_json::from_str(&read("profiles/tests/golden/nginx.profile.json")).expect("JSON");
    assert_eq!(says(&schema::profile(), &good), Vec::<String>::new());
    for (field, value) in [
        ("schema", json!("keep.dev/profile/v2")),
        ("caps", json!(["CAP_CHOWN"])),
        ("write", json!(["a/../b"])),
    ] {
        let mut bad = good.clone();
        bad[field] = value;
        assert_eq!(says(&schema::profile(), &bad).len(), 1, "{field}");
    }
    let mut bad = good;
    bad.as_object_mut().expect("an object").remove("listen");
    assert_eq!(says(&schema::profile(), &bad).len(), 1);
}

#[test]
fn a_record_is_one_and_one_of_another_version_or_wall_is_not() {
    let record = profiles::Record {
        schema: profiles::record::SCHEMA.to_owned(),
        time: "2026-11-21T08:00:00.123456Z".to_owned(),
        node: "n1".to_owned(),
        class: "keep".to_owned(),
        pod: None,
        container: profiles::record::Container { id: "a".to_owned(), name: "web".to_owned(), exec: None },
        image: profiles::record::Image { name: "shop/web:1.4".to_owned(), digest: "sha256:0".to_owned() },
        profile: None,
        process: profiles::record::Process { pid: 7, program: "/usr/sbin/nginx".to_owned() },
        wall: profiles::plan::Wall::Exec,
        operation: "execve".to_owned(),
        object: "/bin/sh".to_owned(),
        verdict: profiles::record::Verdict::Denied,
        errno: Some("EACCES".to_owned()),
        count: 1,
        allow: None,
        because: Some("it is denied".to_owned()),
    };
    let good = serde_json::to_value(record).expect("a record serialises");
    assert_eq!(says(&schema::record(), &good), Vec::<String>::new());
    for (field, value) in [
        ("schema", json!("keep.dev/violation/v2")),
        ("wall", json!("fence")),
        ("count", json!(0)),
        ("pod", json!("web")),
    ] {
        let mut bad = good.clone();
        bad[field] = value;
        assert!(!says(&schema::record(), &bad).is_empty(), "{field}");
    }
}

fn policy() -> Value {
    json!({
        "apiVersion": "keep.dev/v1alpha1", "kind": "RuntimePolicy", "metadata": { "name": "shop" },
        "spec": {
            "selector": { "namespaces": ["shop", "team-*"] }, "mode": "enforce", "onExceed": "Clamp",
            "require": ["exec"],
            "ceiling": {
                "exec": ["/usr", "/opt/.hidden/..x"], "listen": ["8000-8999/tcp"],
                "connect": ["443/tcp", "10.0.0.0/8:443/tcp", "[2001:db8::/32]:53/udp", "dns", "unix:/run/x"],
                "caps": ["CHOWN"], "needs": ["jit"],
            },
            "exceptions": [{
                "image": format!("sha256:{}", "0".repeat(64)), "expires": "2027-03-31T00:00:00Z",
                "reason": "moves", "grants": { "listen": ["53/udp"] },
            }],
        },
    })
}

#[test]
fn a_policy_is_one_and_each_slip_in_it_is_found() {
    assert_eq!(says(&schema::policy(), &policy()), Vec::<String>::new());
    let text = serde_json::to_string(&policy()).expect("JSON");
    profiles::policy::Policies::parse([("policy.json", text.as_str())]).expect("the parser takes it too");
    for (place, value) in [
        ("/apiVersion", json!("keep.dev/v2")),
        ("/spec/mode", json!("enforced")),
        ("/spec/onExceed", json!("clamp")),
        ("/spec/require/0", json!("walls")),
        ("/spec/selector/namespaces/0", json!("team-?")),
        ("/spec/ceiling/exec/0", json!("/usr/../bin")),
        ("/spec/ceiling/exec/1", json!("/usr/..")),
        ("/spec/ceiling/listen/0", json!("8000")),
        ("/spec/ceiling/connect/1", json!("example.org:443/tcp")),
        ("/spec/ceiling/caps/0", json!("CAP_CHOWN")),
        ("/spec/ceiling/needs/0", json!("iouring")),
        ("/spec/exceptions/0/image", json!("sha256:0")),
        ("/spec", json!({ "modes": "audit" })),
    ] {
        let mut bad = policy();
        *bad.pointer_mut(place).expect(place) = value;
        assert!(!says(&schema::policy(), &bad).is_empty(), "{place}");
        let text = serde_json::to_string(&bad).expect("JSON");
        assert!(profiles::policy::Policies::parse([("policy.json", text.as_str())]).is_err(), "{place}");
    }
}

#[test]
fn labels_of_the_documentation_are_some_and_wrong_ones_are_not() {
    let good = json!({
        "dev.keep.intent": "v1", "dev.keep.exec": "/usr/sbin/nginx /a%20b", "dev.keep.listen": "8080/tcp 8000-8010/udp",
        "dev.keep.listen.metrics": "", "dev.keep.connect": "5432/tcp 10.0.0.0/8:443/tcp [2001:db8::/32]:443/tcp dns unix:/run/db",
        "dev.keep.caps": "NET_BIND_SERVICE", "dev.keep.needs": " jit  ipc ", "org.opencontainers.image.title": "shop",
    });
    assert_eq!(says(&schema::labels(), &good), Vec::<String>::new());
    for (key, value) in [
        ("dev.keep.intent", "v2"),
        ("dev.keep.exec", "nginx"),
        ("dev.keep.listen", "8080"),
        ("dev.keep.listen.metrics", "9090/sctp"),
        ("dev.keep.connect", "example.org:443/tcp"),
        ("dev.keep.caps", "CAP_CHOWN"),
        ("dev.keep.needs", "iouring"),
        ("dev.keep.lissen", "8080/tcp"),
    ] {
        let mut bad = good.clone();
        bad[key] = json!(value);
        assert!(!says(&schema::labels(), &bad).is_empty(), "{key}");
    }
}

#[test]
fn the_definition_is_structural_and_holds_no_more_than_kubernetes_takes() {
    fn check(schema: &Value, place: &str) {
        const TAKEN: [&str; 10] = [
            "type",
            "description",
            "properties",
            "items",
            "required",
            "enum",
            "pattern",
            "format",
            "minLength",
            "maxLength",
        ];
        let schema = schema.as_object().unwrap_or_else(|| panic!("{place} is no schema: {schema}"));
        assert!(schema["type"].is_string(), "{place}");
        for key in schema.keys() {
            assert!(TAKEN.contains(&key.as_str()), "{place} has {key}");
        }
        for (name, property) in schema.get("properties").and_then(Value::as_object).into_iter().flatten() {
            check(property, &format!("{place}.{name}"));
        }
        if let Some(items) = schema.get("items") {
            check(items, &format!("{place}[]"));
        }
    }
    let definition = definition();
    let schema = &definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
    check(schema, "RuntimePolicy");
    let spec = &schema["properties"]["spec"]["properties"];
    assert_eq!(spec["mode"]["enum"], json!(["enforce", "audit"]));
    assert_eq!(spec["ceiling"]["properties"]["caps"]["items"]["enum"].as_array().map(Vec::len), Some(41));
}
