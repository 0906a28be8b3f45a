use super::*;
use crate::intent::AbsPath;
use crate::policy::{Command, InteractiveExec, Mode, OnExceed, Report, Subject, Undeclared};

fn document(name: &str, spec: &str) -> String {
    format!(
        "apiVersion: keep.dev/v1alpha1\nkind: RuntimePolicy\nmetadata: {{ name: {name} }}\nspec: {spec}\n"
    )
}

fn parse(documents: &[(&str, &str)]) -> Result<Policies, PolicyError> {
    let texts: Vec<(String, String)> =
        documents.iter().map(|(name, spec)| (format!("{name}.yaml"), document(name, spec))).collect();
    Policies::parse(texts.iter().map(|(file, text)| (file.as_str(), text.as_str())))
}

fn web(class: &str) -> Subject<'_> {
    Subject { namespace: Some("shop"), image: Some("docker.io/shop/web:1"), ..Subject::of_class(class) }
}

fn wrong(documents: &[(&str, &str)], parts: &[&str]) {
    let error = parse(documents).unwrap_err().to_string();
    for part in parts {
        assert!(error.contains(part), "{part:?} is not in: {error}");
    }
}

#[test]
fn the_more_specific_policy_decides_and_what_it_leaves_open_the_less_specific() {
    let policies = parse(&[
        ("all", "{ report: calls, onExceed: Reject, command: allow, privileged: true }"),
        ("class", "{ selector: { classes: [keep] }, onExceed: Clamp, command: declared, mode: audit }"),
        ("namespace", "{ selector: { namespaces: [sh*] }, mode: enforce, command: allow }"),
        ("image", "{ selector: { images: ['*/web:*'] }, command: declared }"),
        ("both", "{ selector: { namespaces: [shop], images: ['*/web:*'] }, undeclared: refuse }"),
        ("another", "{ selector: { namespaces: [other] }, mode: audit }"),
    ])
    .unwrap();
    let policy = policies.select(&web("keep")).unwrap();
    assert_eq!(policy.policies, ["all", "class", "namespace", "image", "both"]);
    assert_eq!((policy.report, policy.privileged), (Report::Calls, true));
    assert_eq!((policy.on_exceed, policy.mode), (OnExceed::Clamp, Mode::Enforce));
    assert_eq!((policy.command, policy.undeclared), (Command::Declared, Undeclared::Refuse));
    // Outside Kubernetes there is no namespace, and no pattern fits none.
    let bare = policies.select(&Subject::of_class("keep")).unwrap();
    assert_eq!((bare.policies, bare.mode), (vec!["all".to_owned(), "class".to_owned()], Mode::Audit));
}

#[test]
fn two_policies_that_set_the_same_differently_are_an_error_that_names_both() {
    let one = ("one", "{ selector: { namespaces: ['team-*'] }, mode: audit }");
    let other = ("two", "{ selector: { namespaces: ['*-prod'] }, mode: enforce }");
    wrong(&[one, other], &["\"one\" (one.yaml:4:53)", "\"two\" (two.yaml:4:53)", "conflict", "set mode"]);
    // The same value, disjoint selectors, another tier, another field: no conflict.
    for fine in [
        "{ selector: { namespaces: ['*-prod'] }, mode: audit }",
        "{ selector: { namespaces: ['shop'] }, mode: enforce }",
        "{ selector: { classes: [keep] }, mode: enforce }",
        "{ selector: { namespaces: ['*-prod'], images: ['*'] }, mode: enforce }",
        "{ selector: { namespaces: ['*-prod'] }, report: calls }",
    ] {
        assert!(parse(&[one, ("two", fine)]).is_ok(), "{fine}");
    }
    let class =
        |needs: &str| format!("{{ selector: {{ classes: [keep] }}, ceiling: {{ needs: [{needs}] }} }}");
    wrong(&[("one", &class("jit")), ("two", &class("ipc"))], &["ceiling.needs"]);
}

#[test]
fn who_decides_about_sessions_decides_what_they_get() {
    let debug = |exec: &str| format!("interactiveExec: debug, debug: {{ exec: [{exec}] }}");
    let class = |rest: &str| format!("{{ selector: {{ classes: [keep] }}, {rest} }}");
    let shop = |rest: &str| format!("{{ selector: {{ namespaces: [shop] }}, {rest} }}");
    let in_force = |specs: &[String]| {
        let names = ["a", "b"];
        let documents: Vec<(&str, &str)> = names.into_iter().zip(specs.iter().map(String::as_str)).collect();
        let policy = parse(&documents).unwrap().select(&web("keep")).unwrap();
        let exec =
            |grants: super::super::DebugGrants| grants.exec.iter().map(AbsPath::to_label).collect::<Vec<_>>();
        (policy.interactive_exec, policy.debug.map(exec))
    };
    use InteractiveExec::{Confined, Debug};
    let sh = Some(vec!["/bin/sh".to_owned()]);
    assert_eq!(in_force(&[class(&debug("/bin/ls")), shop(&debug("/bin/sh"))]), (Debug, sh.clone()));
    assert_eq!(in_force(&[class(&debug("/bin/sh")), shop("report: calls")]), (Debug, sh));
    assert_eq!(in_force(&[class(&debug("/bin/sh")), shop("interactiveExec: confined")]), (Confined, None));
    wrong(&[("a", &shop(&debug("/bin/sh"))), ("b", &shop(&debug("/bin/ls")))], &["set debug"]);
}

#[test]
fn ceilings_of_other_policies_all_hold_and_that_of_a_class_is_its_own() {
    let policies = parse(&[
        ("everywhere", "{ ceiling: { write: [/data, /run] } }"),
        ("shop", "{ selector: { namespaces: [shop] }, ceiling: { write: [/data/a, /srv] } }"),
        ("class", "{ selector: { classes: [keep] }, ceiling: { needs: [mount] } }"),
    ])
    .unwrap();
    let policy = policies.select(&web("keep")).unwrap();
    let left = |path: &str| policy.withholds_write(&AbsPath::new(path).unwrap());
    assert_eq!(
        (left("/data/a/b"), left("/srv"), left("/run")),
        (None, Some("policy everywhere"), Some("policy shop"))
    );
    let need = |name: &str| policy.withholds_need(&crate::intent::Need::new(name).unwrap());
    assert_eq!((need("mount"), need("jit")), (None, Some("class keep")));
}

#[test]
fn a_class_of_ones_own_is_as_keep_but_for_what_its_policy_says() {
    let policies = parse(&[("build", "{ selector: { classes: [builders] }, undeclared: refuse }")]).unwrap();
    let policy = policies.select(&web("builders")).unwrap();
    assert_eq!(
        (policy.class.as_str(), policy.undeclared, policy.mode),
        ("builders", Undeclared::Refuse, Mode::Enforce)
    );
    let error = policies.select(&web("builder")).unwrap_err().to_string();
    assert!(error.contains("builders, keep, keep-permissive, keep-strict"), "{error}");
}

#[test]
fn an_exception_lifts_its_policys_ceiling_for_one_image_until_its_day() {
    let digest = format!("sha256:{}", "a".repeat(64));
    let shop = format!(
        "{{ selector: {{ namespaces: [shop] }}, ceiling: {{ needs: [] }}, exceptions: \
         [{{ image: '{digest}', expires: '2027-01-01T00:00:00Z', reason: migration, grants: {{ needs: [jit, mount] }} }}] }}"
    );
    let policies = parse(&[("shop", &shop)]).unwrap();
    let withholds = |digest: Option<&str>, now: u64, need: &str| {
        let now = std::time::UNIX_EPOCH + std::time::Duration::from_secs(now);
        let policy = policies.select(&Subject { digest, now, ..web("keep") }).unwrap();
        policy.withholds_need(&crate::intent::Need::new(need).unwrap()).map(str::to_owned)
    };
    const END: u64 = 1_798_761_600;
    assert_eq!(withholds(Some(&digest), END - 1, "jit"), None);
    assert_eq!(withholds(Some(&digest), END - 1, "mount").as_deref(), Some("class keep"), "never the class");
    assert_eq!(withholds(Some(&digest), END - 1, "ipc").as_deref(), Some("policy shop"));
    assert_eq!(withholds(Some(&digest), END, "jit").as_deref(), Some("policy shop"));
    assert_eq!(withholds(Some("sha256:b"), 0, "jit").as_deref(), Some("policy shop"));
    assert_eq!(withholds(None, 0, "jit").as_deref(), Some("policy shop"));
}

#[test]
fn what_is_wrong_with_a_document_is_said_with_its_place() {
    for (spec, parts) in [
        ("{ mode: enforced }", &["bad.yaml:4:15:", "enforced", "enforce"][..]),
        ("{ modes: enforce }", &["bad.yaml:4:9:", "modes"]),
        (
            "{ ceiling: { needs: [iouring] } }",
            &["bad.yaml:4:", "unknown need \"iouring\"; did you mean \"io-uring\"?"],
        ),
        ("{ ceiling: { caps: [CAP_CHOWN] } }", &["bad.yaml:4:", "without CAP_; write CHOWN"]),
        ("{ ceilling: {} }", &["unknown field \"ceilling\"; did you mean \"ceiling\"?"]),
        ("{ mode: audit, mode: enforce }", &["\"mode\" stands here twice"]),
        ("{ ceiling: { needs: } }", &["bad.yaml:4:", "nothing behind this field"]),
        ("{ selector: { namespaces: } }", &["nothing behind this field"]),
        ("{ default: }", &["nothing behind this field"]),
        ("{ mode: }", &["nothing behind this field"]),
        ("{ require: [policy] }", &["bad.yaml:4:18: policy \"bad\": require", "policy, which is no wall"]),
        ("{ ceiling: { write: &a [/x], exec: [*a] } }", &["one value is expected here"]),
        ("{ ceiling: { listen: ['8080'] } }", &["8080/tcp"]),
        ("{ ceiling: { write: 'x' } }", &["bad.yaml:4:"]),
        ("{ deny: { exec: [sh] } }", &["not absolute"]),
        ("{ selector: { namespaces: ['team-?'] } }", &["only * is special"]),
        ("{ selector: { namespaces: [] } }", &["bad.yaml:4:33:", "nothing is selected"]),
        ("{ selector: { classes: ['keep*'] } }", &["without patterns"]),
        ("{ undeclared: default }", &["bad.yaml:4:21:", "no default is given"]),
        ("{ onInvalid: UseDefault }", &["no default is given"]),
        ("{ undeclared: refuse, default: {} }", &["leave undeclared out"]),
        ("{ default: { write: [/proc/x] } }", &["bad.yaml:4:27:", "nothing under /proc"]),
        ("{ interactiveExec: debug }", &["no debug says what sessions get"]),
        ("{ debug: { exec: [/bin/sh] } }", &["interactiveExec is not debug"]),
        ("{ interactiveExec: confined, debug: {} }", &["interactiveExec is not debug"]),
        (
            "{ interactiveExec: debug, debug: { write: [/x] } }",
            &["unknown field \"write\"", "exec, caps, needs"],
        ),
        ("{ isolation: microvm }", &["not there yet"]),
        ("{ response: evict }", &["not there yet"]),
        (
            "{ exceptions: [{ image: x, expires: '2027-01-01T00:00:00Z', reason: x, grants: {} }] }",
            &["no digest"],
        ),
        ("{ privileged: yes }", &["bad.yaml:4:21: write true or false here"]),
        ("{ privileged: \"true\" }", &["bad.yaml:4:21: write true or false here, without quotes"]),
        ("{ privileged: 1 }", &["bad.yaml:4:21:"]),
        ("{ privileged: }", &["nothing behind this field"]),
    ] {
        wrong(&[("bad", spec)], parts);
    }
    wrong(&[("Bad_Name", "{}")], &["lower-case"]);
    let twice = document("one", "{}");
    let error =
        Policies::parse([("a.yaml", twice.as_str()), ("b.yaml", twice.as_str())]).unwrap_err().to_string();
    assert!(error.contains("a.yaml:3:19") && error.contains("b.yaml:3:19"), "{error}");
    let both = format!("{twice}---\n{twice}");
    let error = Policies::parse([("a.yaml", both.as_str())]).unwrap_err().to_string();
    assert!(error.contains("a.yaml:3:19") && error.contains("a.yaml:8:19"), "{error}");
    let other = document("one", "{}").replace("RuntimePolicy", "Pod");
    assert!(Policies::parse([("a.yaml", other.as_str())]).unwrap_err().to_string().contains("RuntimePolicy"));
    let bomb = "a: &a [x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b]\nd: [*c,*c,*c,*c,*c,*c,*c,*c]\n";
    assert!(Policies::parse([("bomb.yaml", bomb)]).is_err());
}

#[test]
fn a_problem_is_placed_in_its_own_document() {
    let text = format!(
        "# The first is good.\n{}---\napiVersion: keep.dev/v1alpha1\nkind: RuntimePolicy\nmetadata:\n  name: bad\nspec:\n  \
         default:\n    listen: [80/tcp]\n    write:\n    - /proc\n",
        document("good", "{ default: { write: [/data] } }")
    );
    let error = Policies::parse([("x.yaml", text.as_str())]).unwrap_err().to_string();
    assert_eq!(error, "x.yaml:15:7: policy \"bad\": default.write: nothing under /proc can be made writable");
    // Where a field is not there, what it would stand in is named.
    let text = document("bad", "{ exceptions: [] }")
        .replace("[]", "&e [{ image: 'sha256:X', expires: '2027-01-01T00:00:00Z', reason: x, grants: {} }]")
        .replace('X', &"a".repeat(64));
    let error = Policies::parse([("x.yaml", text.as_str())]).unwrap_err().to_string();
    assert!(error.starts_with("x.yaml:4:") && error.contains("and it has none"), "{error}");
    // Those of the cluster have no text.
    let documents = serde_json::json!({
        "apiVersion": "keep.dev/v1alpha1", "kind": "RuntimePolicy", "metadata": { "name": "bad" },
        "spec": { "privileged": true, "undeclared": "default" },
    });
    let error =
        Policies::from_documents([serde_json::from_value(documents).unwrap()]).unwrap_err().to_string();
    assert!(error.starts_with("the cluster: policy \"bad\": undeclared is default"), "{error}");
}

#[test]
fn a_file_may_hold_several_documents_or_none() {
    let text = format!("{}---\n{}", document("one", "{}"), document("two", "{}"));
    assert_eq!(
        Policies::parse([("x.yaml", text.as_str())]).unwrap().names().collect::<Vec<_>>(),
        ["one", "two"]
    );
    assert_eq!(Policies::parse([("x.yaml", "# nothing here\n")]).unwrap(), Policies::default());
}

#[test]
fn what_is_kept_as_last_known_good_is_read_back_the_same() {
    let policies = parse(&[(
        "shop",
        "{ selector: { namespaces: ['sh*'] }, mode: audit, default: { listen: [8080/tcp] } }",
    )]);
    let policies = policies.unwrap();
    let json = serde_json::to_string(&policies).unwrap();
    assert_eq!(serde_json::from_str::<Policies>(&json).unwrap(), policies);
}
