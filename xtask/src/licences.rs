//! The quick part of the `deny` step: what `deny.toml` says of licences, sources and banned crates, checked against what
//! the crates say of themselves. `cargo deny` also reads their licence files and the list of advisories, but takes minutes to
//! build.

use std::path::Path;

use serde_json::Value;
use spdx::{Expression, Licensee, ParseMode};

use crate::{Count, Outcome, run};

const REGISTRY: &str = "registry+https://github.com/rust-lang/crates.io-index";

/// The rules in `deny.toml`.
struct Rules {
    licences: Vec<Licensee>,
    banned: Vec<String>,
    targets: Vec<String>,
}

impl Rules {
    fn read(text: &str) -> Result<Self, String> {
        let rules: toml::Value = text.parse::<toml::Table>().map_err(|error| format!("deny.toml: {error}"))?.into();
        let list = |section: &str, name: &str| {
            let list = rules.get(section).and_then(|section| section.get(name)).and_then(|list| list.as_array());
            list.ok_or_else(|| format!("deny.toml: [{section}] {name} is no list"))
        };
        let text = |value: Option<&toml::Value>| {
            let text = value.and_then(toml::Value::as_str).map(str::to_owned);
            text.ok_or_else(|| "deny.toml: a list has an entry of another form than this check reads".to_owned())
        };
        let licence = |value| Licensee::parse(&text(Some(value))?).map_err(|error| error.to_string());
        Ok(Self {
            licences: list("licenses", "allow")?.iter().map(licence).collect::<Result<_, _>>()?,
            banned: list("bans", "deny")?.iter().map(|ban| text(ban.get("crate"))).collect::<Result<_, _>>()?,
            targets: list("graph", "targets")?.iter().map(|target| text(Some(target))).collect::<Result<_, _>>()?,
        })
    }

    /// The reason why a package of `cargo metadata` may not be used.
    fn complaint(&self, package: &Value) -> Option<String> {
        let text = |name: &str| package[name].as_str();
        let name = text("name").unwrap_or_default();
        if self.banned.iter().any(|banned| banned == name) {
            return Some(format!("{name} is banned"));
        }
        // A crate of the workspace has no source.
        let source = text("source")?;
        if source != REGISTRY {
            return Some(format!("{name} comes from {source}"));
        }
        let Some(licence) = text("license") else { return Some(format!("{name} names no licence")) };
        match Expression::parse_mode(licence, ParseMode::LAX) {
            Ok(terms) if terms.evaluate(|term| self.licences.iter().any(|allowed| allowed.satisfies(term))) => None,
            Ok(_) => Some(format!("{name} has the licence {licence}, which deny.toml does not allow")),
            Err(error) => Some(format!("{name} has a licence that cannot be read: {licence}: {}", error.reason)),
        }
    }
}

pub(crate) fn check(root: &Path) -> Outcome {
    let rules = std::fs::read_to_string(root.join("deny.toml")).map_err(|error| format!("deny.toml: {error}"))?;
    let rules = Rules::read(&rules)?;
    let mut metadata = run::cargo(root);
    metadata.args(["metadata", "--format-version", "1", "--locked", "--quiet", "--all-features"]);
    for target in &rules.targets {
        metadata.args(["--filter-platform", target]);
    }
    let output = metadata.output().map_err(|error| error.to_string())?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned());
    }
    let metadata: Value = serde_json::from_slice(&output.stdout).map_err(|error| error.to_string())?;
    let packages = metadata["packages"].as_array().ok_or("cargo metadata names no packages")?;
    let complaints: Vec<String> = packages.iter().filter_map(|package| rules.complaint(package)).collect();
    complaints.iter().for_each(|complaint| eprintln!("{complaint}"));
    println!("{} crates looked at", packages.len());
    Ok(Count::of(complaints.is_empty()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn licences_sources_and_bans_are_looked_at() {
        let rules = Rules::read(
            r#"
            [graph]
            targets = ["x"]
            [licenses]
            allow = ["MIT", "Apache-2.0 WITH LLVM-exception"]
            [bans]
            deny = [{ crate = "bad", reason = "" }]
            "#,
        )
        .expect("it is well-formed");
        for (name, licence, source, is_fine) in [
            ("a", Some("MIT"), REGISTRY, true),
            ("a", Some("MIT/GPL-3.0"), REGISTRY, true),
            ("a", Some("MIT AND GPL-3.0-only"), REGISTRY, false),
            ("a", Some("Apache-2.0 WITH LLVM-exception"), REGISTRY, true),
            ("a", Some("Apache-2.0"), REGISTRY, false),
            ("a", Some("whatever"), REGISTRY, false),
            ("a", None, REGISTRY, false),
            ("a", Some("MIT"), "git+https://example.com/a", false),
            ("bad", Some("MIT"), REGISTRY, false),
        ] {
            let package = serde_json::json!({ "name": name, "license": licence, "source": source });
            assert_eq!(rules.complaint(&package).is_none(), is_fine, "{package}");
        }
        assert_eq!(rules.complaint(&serde_json::json!({ "name": "ours", "source": null })), None);
    }
}
