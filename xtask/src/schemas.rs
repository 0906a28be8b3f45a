//! `cargo xtask schemas`: JSON Schemas and the custom resource definition, from the types of `profiles`.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use profiles::schema;
use serde_json::{Map, Value, json};

use crate::build;

/// What a structural schema of Kubernetes may not say, or says elsewhere: unknown fields are pruned or refused anyway.
const NOT_STRUCTURAL: [&str; 6] =
    ["$schema", "$id", "title", "uniqueItems", "additionalProperties", "default"];

/// Writes them.
///
/// # Errors
/// When a file cannot be written.
pub(crate) fn write() -> Result<()> {
    for (path, text) in made()? {
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
        }
        std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        println!("{}", path.display());
    }
    Ok(())
}

/// The files that are not what the types say, with the command that mends them.
///
/// # Errors
/// When a schema cannot be made.
pub(crate) fn drifted() -> Result<Vec<String>> {
    let differs = |(path, text): (PathBuf, String)| {
        let path_words = path.strip_prefix(build::root()).unwrap_or(&path).display().to_string();
        let same = std::fs::read_to_string(&path).is_ok_and(|there| there == text);
        (!same).then(|| format!("{path_words}: not what the types say; run `cargo xtask schemas`"))
    };
    Ok(made()?.into_iter().filter_map(differs).collect())
}

fn made() -> Result<BTreeMap<PathBuf, String>> {
    let mut files = BTreeMap::new();
    for (name, schema) in [
        ("labels", schema::labels()),
        ("policy", schema::policy()),
        ("profile", schema::profile()),
        ("record", schema::record()),
    ] {
        let path = build::root().join(format!("docs/schemas/{name}.schema.json"));
        files.insert(path, serde_json::to_string_pretty(&schema)? + "\n");
    }
    let path = build::root().join("runtimeclass/manifests/runtimepolicy.json");
    files.insert(path, serde_json::to_string_pretty(&definition())? + "\n");
    Ok(files)
}

/// The custom resource definition of `RuntimePolicy`.
pub(crate) fn definition() -> Value {
    let mut schema = structural(schema::policy_inlined());
    // Kubernetes has its own rules for these.
    schema["properties"]["metadata"] = json!({ "type": "object" });
    for field in ["apiVersion", "kind"] {
        schema["properties"][field] = json!({ "type": "string" });
    }
    json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": { "name": "runtimepolicies.keep.dev" },
        "spec": {
            "group": "keep.dev",
            "names": {
                "kind": "RuntimePolicy", "listKind": "RuntimePolicyList",
                "plural": "runtimepolicies", "singular": "runtimepolicy",
            },
            "scope": "Cluster",
            "versions": [
                { "name": "v1alpha1", "served": true, "storage": true, "schema": { "openAPIV3Schema": schema } },
            ],
        },
    })
}

/// The same schema in the words that Kubernetes takes.
fn structural(schema: Value) -> Value {
    let Value::Object(mut object) = schema else { return schema };
    for alternatives in ["oneOf", "anyOf"] {
        if let Some(Value::Array(of)) = object.remove(alternatives) {
            merge(&mut object, of);
        }
    }
    object.retain(|key, _| !NOT_STRUCTURAL.contains(&key.as_str()));
    if let Some(constant) = object.remove("const") {
        object.insert("enum".to_owned(), json!([constant]));
    }
    if let Some(Value::Array(types)) = object.get("type") {
        let real = types.iter().find(|name| *name != "null").cloned().unwrap_or(Value::Null);
        object.insert("type".to_owned(), real);
    }
    if let Some(Value::Array(values)) = object.get_mut("enum") {
        values.retain(|value| !value.is_null());
    }
    if let Some(Value::Object(properties)) = object.get_mut("properties") {
        for property in properties.values_mut() {
            *property = structural(property.take());
        }
    }
    if let Some(items) = object.get_mut("items") {
        *items = structural(items.take());
    }
    Value::Object(object)
}

/// Alternatives: of one type or nothing, or names with what each means.
fn merge(object: &mut Map<String, Value>, alternatives: Vec<Value>) {
    let mut values = Vec::new();
    let mut meanings = Vec::new();
    for alternative in alternatives.into_iter().map(structural) {
        let Value::Object(alternative) = alternative else { continue };
        if alternative.get("type").is_some_and(|name| name == "null" || name.is_null()) {
            continue;
        }
        let meaning = alternative.get("description").and_then(Value::as_str);
        if let Some(Value::Array(names)) = alternative.get("enum") {
            let of = names.iter().filter_map(Value::as_str).map(|name| match meaning {
                Some(meaning) => format!("{name}: {meaning}"),
                None => name.to_owned(),
            });
            meanings.extend(of);
            values.extend(names.iter().cloned());
        }
        for (key, value) in alternative {
            if key != "enum" {
                object.entry(key).or_insert(value);
            }
        }
    }
    if !values.is_empty() {
        object.insert("enum".to_owned(), Value::Array(values));
        let own = object.get("description").and_then(Value::as_str).unwrap_or_default();
        object.insert("description".to_owned(), format!("{own} {}", meanings.join(" ")).trim().into());
    }
}

#[cfg(test)]
mod tests;
