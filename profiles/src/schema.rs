//! JSON Schemas of what people and programs read and write, made from the types themselves.

use std::borrow::Cow;

use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde_json::{Map, Value, json};

use crate::intent::{AbsPath, Capability, Endpoint, Need, PortRange};
use crate::labels::{INTENT, LISTS, MAX_LABEL, PREFIX, VERSION};
use crate::policy::{Expiry, ImageDigest, Pattern, RuntimePolicy};
use crate::{Profile, Record};

/// A path: absolute, without control characters, no part of it `..`. Without look-ahead, which Kubernetes has not.
const PATH: &str = r"(/([^/.\x00-\x1f\x7f-\x9f][^/\x00-\x1f\x7f-\x9f]*|\.([^/.\x00-\x1f\x7f-\x9f][^/\x00-\x1f\x7f-\x9f]*)?|\.\.[^/\x00-\x1f\x7f-\x9f]+)?)+";
/// A path as a word of a label.
const PATH_WORD: &str = r"/([^\s%]|%20|%25)*";
const PORTS: &str = r"[0-9]+(-[0-9]+)?/(tcp|udp)";
const NETWORK: &str = r"([0-9]+(\.[0-9]+){3}(/[0-9]+)?|\[[0-9a-fA-F:.]+(/[0-9]+)?\])";

/// Where a schema is published.
const PLACE: &str = "https://keep.dev/schemas/";

macro_rules! text {
    ($type:ty, $name:literal, $schema:expr) => {
        impl JsonSchema for $type {
            fn inline_schema() -> bool {
                true
            }

            fn schema_name() -> Cow<'static, str> {
                $name.into()
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                $schema
            }
        }
    };
}

text!(AbsPath, "AbsPath", json_schema!({ "type": "string", "pattern": whole(PATH) }));
text!(PortRange, "PortRange", json_schema!({ "type": "string", "pattern": whole(PORTS) }));
text!(Endpoint, "Endpoint", json_schema!({ "type": "string", "pattern": whole(&endpoint(r"/.*")) }));
text!(
    Capability,
    "Capability",
    json_schema!({ "type": "string", "enum": Self::all().map(String::from).collect::<Vec<_>>() })
);
text!(
    Need,
    "Need",
    json_schema!({ "type": "string", "enum": Self::all().map(String::from).collect::<Vec<_>>() })
);
text!(
    Pattern,
    "Pattern",
    json_schema!({ "type": "string", "minLength": 1, "maxLength": 512, "pattern": r"^[^?\[\]{}\s]+$" })
);
text!(ImageDigest, "ImageDigest", json_schema!({ "type": "string", "pattern": "^sha256:[0-9a-f]{64}$" }));
text!(Expiry, "Expiry", json_schema!({ "type": "string", "format": "date-time" }));

fn whole(pattern: &str) -> String {
    format!("^{pattern}$")
}

fn endpoint(path: &str) -> String {
    format!("(dns|unix:{path}|({NETWORK}:)?{PORTS})")
}

/// Of an image's labels: an object of strings.
#[must_use]
pub fn labels() -> Value {
    let mut properties = Map::new();
    let mut fragments = Map::new();
    let version = json!({ "description": "Version of the label schema; without it the image declares nothing.", "enum": [VERSION] });
    properties.insert(INTENT.to_owned(), version);
    for list in LISTS {
        let words = word(list);
        let value = json!({
            "type": "string", "maxLength": MAX_LABEL, "pattern": format!(r"^\s*({words}(\s+{words})*)?\s*$"),
        });
        fragments.insert(format!(r"^{}{list}\..+$", PREFIX.replace('.', r"\.")), value.clone());
        properties.insert(format!("{PREFIX}{list}"), value);
    }
    let names: Vec<&String> = properties.keys().collect();
    let fragment: Vec<Value> = fragments.keys().map(|pattern| json!({ "pattern": pattern })).collect();
    let foreign = json!({ "not": { "pattern": format!("^{}", PREFIX.replace('.', r"\.")) } });
    let known = [json!({ "enum": names }), foreign].into_iter().chain(fragment).collect::<Vec<_>>();
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": format!("{PLACE}labels.schema.json"),
        "title": "Labels",
        "description": "An image's labels. Sizes of all together, backward ranges and host bits are checked by keep lint alone.",
        "type": "object",
        "propertyNames": { "anyOf": known },
        "properties": properties,
        "patternProperties": fragments,
        "additionalProperties": { "type": "string" },
    })
}

/// What a word of a list looks like.
fn word(list: &str) -> String {
    let any = |names: Vec<String>| format!("({})", names.join("|"));
    match list {
        "listen" => PORTS.to_owned(),
        "connect" => endpoint(PATH_WORD),
        "caps" => any(Capability::all().map(String::from).collect()),
        "needs" => any(Need::all().map(String::from).collect()),
        _ => PATH_WORD.to_owned(),
    }
}

/// Of a policy document, as it is written.
#[must_use]
pub fn policy() -> Value {
    of::<RuntimePolicy>(SchemaSettings::draft2020_12(), "policy")
}

/// Of a policy document with every type in its place, as a custom resource definition needs it.
#[must_use]
pub fn policy_inlined() -> Value {
    of::<RuntimePolicy>(
        SchemaSettings::draft2020_12().with(|settings| settings.inline_subschemas = true),
        "policy",
    )
}

/// Of a profile, as it is printed.
#[must_use]
pub fn profile() -> Value {
    of::<Profile>(SchemaSettings::draft2020_12().for_serialize(), "profile")
}

/// Of a record, as it is printed.
#[must_use]
pub fn record() -> Value {
    of::<Record>(SchemaSettings::draft2020_12().for_serialize(), "record")
}

fn of<T: JsonSchema>(settings: SchemaSettings, name: &str) -> Value {
    let mut schema = settings.into_generator().into_root_schema_for::<T>();
    schema.insert("$id".to_owned(), format!("{PLACE}{name}.schema.json").into());
    schema.to_value()
}
