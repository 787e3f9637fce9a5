//! `dormouse node`: the nodes of a fleet, over the admin API of any of them ([`super::admin`]).

use dormouse_importer::output::{print, print_error, print_line};
use serde_json::{Value, json};

use super::admin::{AdminClient, listing, text_of};
use super::table::columns;
use super::tls::TlsArguments;

#[derive(clap::Args, Debug)]
pub struct NodeArguments {
    #[command(subcommand)]
    action: NodeAction,

    #[command(flatten)]
    tls: TlsArguments,

    /// The HTTP port of any node of the fleet, as http://HOST:PORT or https://HOST:PORT; the admin token is taken from
    /// DORMOUSE_ADMIN_TOKEN [default: DORMOUSE_ADMIN_URL, or http://127.0.0.1:8379]
    #[arg(long, value_name = "URL", global = true)]
    admin_url: Option<String>,

    /// Print JSON
    #[arg(long, global = true)]
    json: bool,
}

#[derive(clap::Subcommand, Debug)]
enum NodeAction {
    /// List the nodes of the fleet, and nodes that have died and are not taken over yet
    List,
    /// Show one node
    Show {
        #[arg(value_parser = parse_node)]
        name: String,
    },
    /// Move all databases of a node to others and give it no new ones, before it is stopped; waits until all have moved
    Drain {
        #[arg(value_parser = parse_node)]
        name: String,
    },
    /// End a drain: the node takes databases again
    Resume {
        #[arg(value_parser = parse_node)]
        name: String,
    },
}

impl NodeArguments {
    /// # Errors
    /// A text that says what is wrong and what to do about it.
    pub fn run(self) -> Result<(), String> {
        let by_environment = std::env::var("DORMOUSE_ADMIN_URL").ok().filter(|url| !url.is_empty());
        let client = AdminClient::new(self.admin_url.or(by_environment), &self.tls)?;
        let (text, value) = match self.action {
            NodeAction::List => {
                let mut listed = client.get("/v1/nodes")?;
                let nodes = listed["nodes"].as_array_mut().map(std::mem::take).unwrap_or_default();
                (node_table(&nodes), Value::Array(nodes))
            }
            NodeAction::Show { name } => {
                let shown = client.get(&format!("/v1/nodes/{name}"))?;
                (listing(&shown), shown)
            }
            NodeAction::Drain { name } => return drain(&client, &name, self.json),
            NodeAction::Resume { name } => {
                let resumed = client.post(&format!("/v1/nodes/{name}/resume"), &json!({}))?;
                (format!("{name} takes databases again\n"), resumed)
            }
        };
        if self.json { print_line(&value.to_string()) } else { print(&text) }
    }
}

/// Drains a node. One request waits for a minute, so further ones follow as long as databases move.
fn drain(client: &AdminClient, name: &str, is_json: bool) -> Result<(), String> {
    let mut moved = 0;
    loop {
        let mut drained = client.post(&format!("/v1/nodes/{name}/drain"), &json!({}))?;
        let moved_now = drained["moved"].as_u64().unwrap_or(0);
        moved += moved_now;
        let staying = drained["staying"].as_array().map_or(0, Vec::len);
        if staying > 0 && moved_now > 0 {
            print_error(&format!("{name}: {moved} moved, {staying} left"));
            continue;
        }
        drained["moved"] = json!(moved);
        if is_json {
            print_line(&drained.to_string())?;
        } else {
            print(&told_drain(name, &drained))?;
        }
        return match staying {
            0 => Ok(()),
            1 => Err(format!("1 database stays on {name}")),
            count => Err(format!("{count} databases stay on {name}")),
        };
    }
}

fn told_drain(name: &str, drained: &Value) -> String {
    let moved = drained["moved"].as_u64().unwrap_or(0);
    let plural = if moved == 1 { "database has" } else { "databases have" };
    let mut text = format!("{name} is draining: {moved} {plural} moved\n");
    for stay in drained["staying"].as_array().into_iter().flatten() {
        text += &format!("{} stays: {}\n", text_of(stay, "database"), text_of(stay, "reason"));
    }
    text
}

/// A line of headings, then one line for each node. The node that answers has a star.
fn node_table(nodes: &[Value]) -> String {
    let mut rows = vec![["NAME", "STATE", "ADDRESS", "HTTP", "ZONE", "VERSION"].map(str::to_owned)];
    for node in nodes {
        let star = if node["here"] == json!(true) { "*" } else { "" };
        let name = format!("{}{star}", text_of(node, "name"));
        let [state, address, http, zone, version] =
            ["state", "address", "http_address", "zone", "version"].map(|field| text_of(node, field).to_owned());
        rows.push([name, state, address, http, zone, version]);
    }
    columns(&rows)
}

/// Names that have another meaning in a path are no names of nodes.
fn parse_node(name: &str) -> Result<String, String> {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
    match !name.is_empty() && name.bytes().all(is_plain) && !name.bytes().all(|byte| byte == b'.') {
        true => Ok(name.to_owned()),
        false => Err("expected the name of a node: see `dormouse node list`".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_are_shown_in_columns() {
        let nodes = [
            json!({ "name": "a", "state": "serving", "address": "10.0.0.1:6379", "http_address": "10.0.0.1:8379",
                "zone": "eu-1a", "version": "0.2.0", "here": true }),
            json!({ "name": "bb", "state": "dead", "address": null, "http_address": null, "zone": null,
                "version": null, "here": false }),
        ];
        let expected = "\
NAME  STATE    ADDRESS        HTTP           ZONE   VERSION
a*    serving  10.0.0.1:6379  10.0.0.1:8379  eu-1a  0.2.0
bb    dead     -              -              -      -
";
        assert_eq!(node_table(&nodes), expected);
    }

    #[test]
    fn a_drain_tells_what_stays() {
        let drained = json!({ "moved": 1, "staying": [{ "database": "shop", "reason": "the store refuses" }] });
        let expected = "b is draining: 1 database has moved\nshop stays: the store refuses\n";
        assert_eq!(told_drain("b", &drained), expected);
        assert_eq!(told_drain("b", &json!({ "moved": 0, "staying": [] })), "b is draining: 0 databases have moved\n");
    }

    #[test]
    fn names_of_nodes_are_plain() {
        assert_eq!(parse_node("node-1.eu"), Ok("node-1.eu".to_owned()));
        for name in ["", "..", "a/b", "a?x", "a b", "a%2f"] {
            assert!(parse_node(name).is_err(), "{name}");
        }
    }
}
