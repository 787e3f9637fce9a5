//! A check of what the chart brings for monitoring: the dashboard and the alerts.
//!
//! 1. Structure: what Grafana and Prometheus need to load them, and that every expression is whole. That each metric exists
//!    is a test of the server, which knows its metrics.
//! 2. A parser of PromQL reads every expression.
//! 3. With `--long`, promtool reads the alerts, the expressions of the dashboard as recording rules, and the metrics of a
//!    running server. Its build takes minutes.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::{Count, Outcome, run, stores, tools};

const DASHBOARD: &str = "dashboards/dormouse.json";
const RULES: &str = "rules/dormouse.yaml";
/// The parser of GreptimeDB under the Apache licence, as a package for Python: it takes seconds to install.
const PARSER: &str = "promql-parser==0.12.0";
const PARSE: &str = "import json, sys, promql_parser
problems = 0
for expression in json.load(open(sys.argv[1])):
    try:
        promql_parser.parse(expression)
    except Exception as error:
        print(f'{expression}: {error}', file=sys.stderr)
        problems = 1
sys.exit(problems)";
/// Columns of a dashboard.
const COLUMNS: u64 = 24;

/// The problems of the files in the chart.
pub(super) fn problems(chart: &Path) -> Result<Vec<String>, String> {
    let of_dashboard = of_dashboard(&dashboard(chart)?).into_iter().map(|problem| format!("{DASHBOARD}: {problem}"));
    let rules = read(chart, RULES)?;
    let of_rules = of_rules(&rules).into_iter().map(|problem| format!("{RULES}: {problem}"));
    Ok(of_dashboard.chain(of_rules).collect())
}

fn dashboard(chart: &Path) -> Result<Value, String> {
    serde_json::from_str(&read(chart, DASHBOARD)?).map_err(|error| format!("{DASHBOARD}: {error}"))
}

fn read(chart: &Path, file: &str) -> Result<String, String> {
    std::fs::read_to_string(chart.join(file)).map_err(|error| format!("{file}: {error}"))
}

fn of_dashboard(dashboard: &Value) -> Vec<String> {
    let mut problems = Vec::new();
    let mut need = |holds: bool, what: String| {
        if !holds {
            problems.push(what);
        }
    };
    need(dashboard["uid"].as_str().is_some_and(|uid| (1..=40).contains(&uid.len())), "it has no uid".to_owned());
    need(dashboard["title"].as_str().is_some_and(|title| !title.is_empty()), "it has no title".to_owned());
    need(dashboard["schemaVersion"].as_u64().is_some_and(|version| version >= 36), "its schema is old".to_owned());
    need(dashboard.get("id").is_none(), "it has the id of one Grafana".to_owned());
    let variables = dashboard["templating"]["list"].as_array().map(Vec::as_slice).unwrap_or_default();
    let names: Vec<&str> = variables.iter().filter_map(|variable| variable["name"].as_str()).collect();
    let is_source = |variable: &Value| variable["type"] == "datasource" && variable["query"] == "prometheus";
    let has_source = variables.iter().any(|variable| variable["name"] == "datasource" && is_source(variable));
    need(has_source, "it has no variable for the data source".to_owned());
    let (mut ids, mut cells) = (BTreeSet::new(), BTreeSet::new());
    let panels = dashboard["panels"].as_array().map(Vec::as_slice).unwrap_or_default();
    need(panels.len() > 1, "it has no panels".to_owned());
    for panel in panels {
        let title = panel["title"].as_str().unwrap_or_default();
        need(!title.is_empty(), format!("a panel has no title: {panel}"));
        need(panel["id"].as_u64().is_some_and(|id| ids.insert(id)), format!("`{title}` has no id of its own"));
        let [x, y, width, height] = ["x", "y", "w", "h"].map(|side| panel["gridPos"][side].as_u64().unwrap_or(0));
        need(width > 0 && height > 0 && x + width <= COLUMNS, format!("`{title}` is not within {COLUMNS} columns"));
        let taken = (x..x + width).flat_map(|x| (y..y + height).map(move |y| (x, y))).all(|cell| cells.insert(cell));
        need(taken, format!("`{title}` lies over another panel"));
        if panel["type"] == "row" {
            continue;
        }
        need(panel["datasource"]["uid"] == "${datasource}", format!("`{title}` has a data source of its own"));
        need(panel["fieldConfig"]["defaults"]["unit"].is_string(), format!("`{title}` has no unit"));
        let targets = panel["targets"].as_array().map(Vec::as_slice).unwrap_or_default();
        let references: BTreeSet<&str> = targets.iter().filter_map(|target| target["refId"].as_str()).collect();
        need(!targets.is_empty() && references.len() == targets.len(), format!("`{title}` has no targets of its own"));
        for expression in targets.iter().map(|target| target["expr"].as_str().unwrap_or_default()) {
            need(is_whole(expression), format!("`{title}`: `{expression}` is not whole"));
            for variable in variables_of(expression) {
                let is_known = names.contains(&variable) || variable == "__rate_interval";
                need(is_known, format!("`{title}`: there is no variable ${variable}"));
            }
        }
    }
    problems
}

/// The names behind each `$`.
fn variables_of(expression: &str) -> impl Iterator<Item = &str> {
    expression.split('$').skip(1).map(|rest| {
        let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(rest.len());
        &rest[..end]
    })
}

/// Whether an expression has text, and all of its brackets and quotes in pairs.
fn is_whole(expression: &str) -> bool {
    let (mut open, mut is_quoted) = (Vec::new(), false);
    for c in expression.chars() {
        match c {
            '"' => is_quoted = !is_quoted,
            _ if is_quoted => {}
            '(' => open.push(')'),
            '[' => open.push(']'),
            '{' => open.push('}'),
            ')' | ']' | '}' if open.pop() != Some(c) => return false,
            _ => {}
        }
    }
    !expression.trim().is_empty() && open.is_empty() && !is_quoted
}

/// The file is flat: each field of an alert is a line.
fn of_rules(text: &str) -> Vec<String> {
    let mut problems = Vec::new();
    let mut names = BTreeSet::new();
    let alerts: Vec<&str> = text.split("- alert: ").skip(1).collect();
    if alerts.is_empty() || !text.contains("\ngroups:\n  - name: ") {
        problems.push("it has no group of alerts".to_owned());
    }
    for alert in alerts {
        let name = alert.lines().next().unwrap_or_default();
        if !names.insert(name) {
            problems.push(format!("{name} is there twice"));
        }
        let field = |field: &str| {
            let found = alert.lines().find_map(|line| line.trim_start().strip_prefix(field)?.strip_prefix(": "));
            found.unwrap_or_default()
        };
        if !is_whole(field("expr")) {
            problems.push(format!("{name}: `{}` is not whole", field("expr")));
        }
        if !["critical", "warning"].iter().any(|severity| field("labels") == format!("{{ severity: {severity} }}")) {
            problems.push(format!("{name} has no severity"));
        }
        for annotation in ["summary", "description"] {
            if field(annotation).is_empty() {
                problems.push(format!("{name} has no {annotation}"));
            }
        }
    }
    problems
}

/// Lets a parser read every expression.
pub(super) fn parsed(root: &Path, chart: &Path) -> Outcome {
    let installed = stores::installed(root, "promql", PARSER, |place| {
        stores::step(Command::new("python3").args(["-m", "venv"]).arg(place))?;
        stores::step(Command::new(place.join("bin/pip")).args(["install", "--quiet", PARSER]))
    });
    if let Err(problem) = installed {
        return tools::missing("expressions for Prometheus were", &problem);
    }
    let rules = read(chart, RULES)?;
    let of_rules = rules.lines().filter_map(|line| line.trim_start().strip_prefix("expr: "));
    let mut expressions = expressions(&dashboard(chart)?);
    expressions.extend(of_rules.map(str::to_owned));
    let tools = tools::folder(root)?;
    let list = tools.join("promql/expressions.json");
    std::fs::write(&list, Value::from(expressions).to_string())
        .map_err(|error| format!("{}: {error}", list.display()))?;
    run::check(Command::new(tools.join("promql/bin/python")).args(["-c", PARSE]).arg(&list))
}

/// The expressions of a dashboard, with an interval in place of Grafana's.
fn expressions(dashboard: &Value) -> Vec<String> {
    let panels = dashboard["panels"].as_array().into_iter().flatten();
    let targets = panels.flat_map(|panel| panel["targets"].as_array().into_iter().flatten());
    targets.filter_map(|target| Some(target["expr"].as_str()?.replace("$__rate_interval", "5m"))).collect()
}

/// Lets promtool read everything.
pub(super) fn with_promtool(root: &Path, chart: &Path, server: &Path) -> Outcome {
    let promtool = match tools::promtool(root) {
        Ok(promtool) => promtool,
        Err(problem) => return tools::missing("alerts and metrics were", &problem),
    };
    let recorded = tools::folder(root)?.join("dashboard-rules.yaml");
    std::fs::write(&recorded, as_rules(&dashboard(chart)?))
        .map_err(|error| format!("{}: {error}", recorded.display()))?;
    let rules = [chart.join(RULES), recorded];
    let mut count = run::check(Command::new(&promtool).args(["check", "rules"]).args(rules))?;
    let mut check = Command::new(&promtool).args(["check", "metrics"]).stdin(Stdio::piped()).spawn();
    let check = check.as_mut().map_err(|error| format!("{}: {error}", promtool.display()))?;
    let metrics = scrape(server)?;
    let written = check.stdin.take().map(|mut input| input.write_all(metrics.as_bytes()));
    let status = check.wait().map_err(|error| error.to_string())?;
    // It ends with 3 if it only has advice; names like those of the exporter for Redis are as they are.
    count += Count::of(matches!(written, Some(Ok(()))) && matches!(status.code(), Some(0 | 3)));
    Ok(count)
}

/// The expressions of a dashboard as recording rules.
fn as_rules(dashboard: &Value) -> String {
    let mut rules = "groups:\n  - name: dashboard\n    rules:\n".to_owned();
    for (number, expression) in expressions(dashboard).into_iter().enumerate() {
        let expression = Value::from(expression);
        rules += &format!("      - record: dashboard:expression:{number}\n        expr: {expression}\n");
    }
    rules
}

/// The metrics of a server that is started for that.
fn scrape(server: &Path) -> Result<String, String> {
    let text = |error: std::io::Error| error.to_string();
    let port = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).map_err(text)?.port();
    let socket = std::env::temp_dir().join(format!("dormouse-metrics-{}.sock", std::process::id()));
    let mut process = Command::new(server)
        .args(["serve", "--port", "0", "--http-port", &port.to_string(), "--store", "memory://", "--unix-socket"])
        .arg(&socket)
        .args(["--audit-log", "stderr"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(text)?;
    let mut line = String::new();
    let started = process.stdout.take().map(|output| BufReader::new(output).read_line(&mut line));
    let mut answer = String::new();
    let asked = TcpStream::connect(("127.0.0.1", port)).and_then(|mut stream| {
        stream.write_all(b"GET /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")?;
        stream.read_to_string(&mut answer)
    });
    // A store in memory has nothing to save.
    let _ = process.kill();
    let _ = process.wait();
    let _ = std::fs::remove_file(&socket);
    match (started, asked, answer.split_once("\r\n\r\n")) {
        (Some(Ok(_)), Ok(_), Some((head, body))) if head.starts_with("HTTP/1.1 200") => Ok(body.to_owned()),
        _ => Err(format!("the server shows no metrics: {line}{answer}")),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn expressions_are_whole_or_not() {
        for (expression, expected) in [
            ("rate(a_total{kind=~\"x|y)\"}[5m]) > 0", true),
            ("sum by (le) (rate(a[5m])", false),
            ("a{b=\"c}", false),
            ("a[5m)", false),
            (" ", false),
        ] {
            assert_eq!(is_whole(expression), expected, "{expression}");
        }
        let found: Vec<&str> = variables_of("a{job=~\"$job\"}[$__rate_interval]").collect();
        assert_eq!(found, ["job", "__rate_interval"]);
    }

    #[test]
    fn a_dashboard_without_its_parts_is_found() {
        let panel = |id: u64, x: u64| {
            json!({
                "id": id, "type": "stat", "title": "A", "gridPos": { "x": x, "y": 0, "w": 12, "h": 4 },
                "datasource": { "uid": "${datasource}" }, "fieldConfig": { "defaults": { "unit": "s" } },
                "targets": [{ "refId": "A", "expr": "up{job=\"$job\"}" }]
            })
        };
        let dashboard = |panels: Vec<Value>, list: Value| {
            json!({
                "uid": "x", "title": "X", "schemaVersion": 39, "templating": { "list": list }, "panels": panels
            })
        };
        let variables =
            json!([{ "name": "datasource", "type": "datasource", "query": "prometheus" }, { "name": "job" }]);
        let whole = dashboard(vec![panel(1, 0), panel(2, 12)], variables.clone());
        assert_eq!(of_dashboard(&whole), [""; 0]);
        for (broken, part) in [
            (dashboard(vec![panel(1, 0), panel(1, 12)], variables.clone()), "no id of its own"),
            (dashboard(vec![panel(1, 0), panel(2, 6)], variables.clone()), "lies over another"),
            (dashboard(vec![panel(1, 0), panel(2, 13)], variables), "not within 24 columns"),
            (dashboard(vec![panel(1, 0), panel(2, 12)], json!([])), "no variable $job"),
            (json!({}), "no uid"),
        ] {
            assert!(of_dashboard(&broken).iter().any(|problem| problem.contains(part)), "{part}");
        }
        assert_eq!(as_rules(&whole).lines().nth(4), Some("        expr: \"up{job=\\\"$job\\\"}\""));
    }

    #[test]
    fn an_alert_without_its_parts_is_found() {
        let whole = "\ngroups:\n  - name: a\n    rules:\n      - alert: A\n        expr: up == 0\n        \
                     labels: { severity: warning }\n        annotations:\n          summary: s\n          description: d\n";
        assert_eq!(of_rules(whole), [""; 0]);
        for (from, to, part) in [
            ("up == 0", "up( == 0", "not whole"),
            ("warning", "loud", "no severity"),
            ("summary: s", "", "no summary"),
            ("- alert: A", "", "no group"),
        ] {
            let problems = of_rules(&whole.replace(from, to));
            assert!(problems.iter().any(|problem| problem.contains(part)), "{part}: {problems:?}");
        }
    }
}
