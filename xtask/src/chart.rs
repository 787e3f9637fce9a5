//! `cargo xtask chart`: lints and renders the Helm chart.
//!
//! Helm's own linter runs first. Then each case is rendered twice, as a pipeline that compares would do: values that
//! must work with output that must (or must not) appear, and values that must be refused, with the words of the
//! refusal. Then the server is started with the rendered environment ([`environment`]). Last come the dashboard and the
//! alerts ([`monitoring`]).

mod environment;
mod monitoring;

use std::path::Path;
use std::process::Command;

use crate::{Count, Outcome, build, run, tools};

struct Case {
    name: &'static str,
    /// Arguments of `helm template`.
    arguments: &'static [&'static str],
    expect: Expect,
}

enum Expect {
    Renders { with: &'static [&'static str], without: &'static [&'static str] },
    Fails(&'static str),
}

use Expect::{Fails, Renders};

/// Given to every case that does not set `auth` itself.
const TOKEN: &str = "--set=auth.token=0123456789abcdef";

const CASES: &[Case] = &[
    Case {
        name: "the defaults are safe and complete",
        arguments: &[],
        expect: Renders {
            with: &[
                "kind: StatefulSet",
                "kind: ServiceAccount",
                "clusterIP: None",
                "runAsNonRoot: true",
                "readOnlyRootFilesystem: true",
                "allowPrivilegeEscalation: false",
                "type: RuntimeDefault",
                "- ALL",
                "automountServiceAccountToken: false",
                "terminationGracePeriodSeconds: 300",
                "path: /healthz",
                "path: /readyz",
                "volumeClaimTemplates:",
                "storage: 8Gi",
                "image: \"dormouse:0.2.0\"",
                "helm.sh/hook: test",
            ],
            without: &["kind: NetworkPolicy", "kind: PodDisruptionBudget", "kind: ServiceMonitor", "emptyDir"],
        },
    },
    Case {
        name: "every option reaches the server under its name",
        arguments: &[
            "--show-only=templates/statefulset.yaml",
            "--set=config.sleepAfter=1h30m",
            "--set=config.checkpointEvery=never",
            "--set=config.maxMemory=512mb",
            "--set=config.maxMemoryPolicy=allkeys-lru",
            "--set=config.maxClients=2500000",
            "--set=config.workers=3",
            "--set=config.logFormat=text",
            "--set=config.auditLog=stderr",
        ],
        expect: Renders {
            with: &[
                "name: DORMOUSE_BIND\n              value: 0.0.0.0",
                "name: DORMOUSE_STORE\n              value: \"file:///data\"",
                "name: DORMOUSE_SLEEP_AFTER\n              value: \"1h30m\"",
                "name: DORMOUSE_CHECKPOINT_EVERY\n              value: \"never\"",
                "name: DORMOUSE_MAX_MEMORY\n              value: \"512mb\"",
                "name: DORMOUSE_MAX_MEMORY_POLICY\n              value: \"allkeys-lru\"",
                "name: DORMOUSE_MAX_CLIENTS\n              value: \"2500000\"",
                "name: DORMOUSE_WORKERS\n              value: \"3\"",
                "name: DORMOUSE_LOG_FORMAT\n              value: \"text\"",
                "name: DORMOUSE_AUDIT_LOG\n              value: \"stderr\"",
            ],
            without: &[],
        },
    },
    Case {
        name: "numbers from a values file are written out, and workers are left to the server",
        arguments: &["--show-only=templates/statefulset.yaml"],
        expect: Renders { with: &["value: \"10000\""], without: &["DORMOUSE_WORKERS", "AUDIT_LOG"] },
    },
    Case {
        name: "a Secret of the user's is used, and none is made",
        arguments: &["--set=auth.existingSecret=mine", "--set=auth.existingSecretKey=the-token"],
        expect: Renders {
            with: &["name: mine\n                  key: the-token"],
            without: &["kind: Secret", "checksum/token"],
        },
    },
    Case {
        name: "a given token is kept in a Secret and nowhere else",
        arguments: &["--set=auth.token=hunter2"],
        expect: Renders { with: &["token: aHVudGVyMg=="], without: &["hunter2"] },
    },
    Case {
        name: "several tokens",
        arguments: &["--set=auth.token=dm_shop_s3cret dm_blog_0_ther hunter2"],
        expect: Renders { with: &["token: ZG1fc2hvcF9zM2NyZXQgZG1fYmxvZ18wX3RoZXIgaHVudGVyMg=="], without: &[] },
    },
    Case { name: "no token", arguments: &["--set=auth.token="], expect: Fails("Set auth.token") },
    Case {
        name: "a token that names no database",
        arguments: &["--set=auth.token=dm_bad"],
        expect: Fails("has the form dm_<database>_<secret>"),
    },
    Case {
        name: "tokens separated by a comma",
        arguments: &["--set-string=auth.token=dm_a_x\\,dm_b_y"],
        expect: Fails("separated by spaces"),
    },
    Case {
        name: "a token that no client can send",
        arguments: &["--set=auth.token=gr\u{fc}n"],
        expect: Fails("printable ASCII"),
    },
    Case {
        name: "TLS in place of the plain port",
        arguments: &["--set=tls.enabled=true", "--set=tls.existingSecret=cert", "--set=networkPolicy.enabled=true"],
        expect: Renders {
            with: &[
                "name: DORMOUSE_PORT\n              value: \"0\"",
                "name: DORMOUSE_TLS_PORT\n              value: \"6379\"",
                "name: DORMOUSE_TLS_CERT_FILE\n              value: \"/tls/tls.crt\"",
                "name: DORMOUSE_TLS_KEY_FILE\n              value: \"/tls/tls.key\"",
                "mountPath: /tls",
                "secretName: \"cert\"",
                "volumeClaimTemplates",
                "mountPath: /data",
                "containerPort: 8380",
                "port: 8380\n      targetPort: https",
                "- port: https",
                "redis-cli --tls --insecure -h",
            ],
            without: &["DORMOUSE_TLS_CA_CERT_FILE", "emptyDir"],
        },
    },
    Case {
        name: "TLS that asks clients for certificates, over a bucket",
        arguments: &[
            "--set=tls.enabled=true",
            "--set=tls.existingSecret=cert",
            "--set=tls.certFilename=server.pem",
            "--set=tls.certCAFilename=ca.crt",
            "--set=store.url=s3://bucket",
        ],
        expect: Renders {
            with: &[
                "name: DORMOUSE_TLS_CA_CERT_FILE\n              value: \"/tls/ca.crt\"",
                "value: \"/tls/server.pem\"",
                "--cert /tls/server.pem --key /tls/tls.key",
            ],
            without: &["volumeClaimTemplates", "mountPath: /data", "name: data"],
        },
    },
    Case {
        name: "no TLS",
        arguments: &[],
        expect: Renders {
            with: &["name: DORMOUSE_PORT\n              value: \"6379\""],
            without: &["/tls", "https", "8380"],
        },
    },
    Case {
        name: "TLS without a certificate",
        arguments: &["--set=tls.enabled=true"],
        expect: Fails("/tls/existingSecret"),
    },
    Case {
        name: "a master key, from a file that the server alone can read",
        arguments: &["--set=encryption.existingSecret=keys", "--set=store.url=s3://bucket"],
        expect: Renders {
            with: &[
                "name: DORMOUSE_MASTER_KEY\n              value: \"file:/encryption/master-key\"",
                "name: encryption\n              mountPath: /encryption\n              readOnly: true",
                "secretName: \"keys\"\n            defaultMode: 0440",
            ],
            without: &["secretKeyRef:\n                  name: keys", "name: data", "/usage", "/tls"],
        },
    },
    Case {
        name: "a master key beside a volume and a certificate",
        arguments: &[
            "--set=encryption.existingSecret=keys",
            "--set=encryption.existingSecretKey=of-2026",
            "--set=tls.enabled=true",
            "--set=tls.existingSecret=cert",
        ],
        expect: Renders {
            with: &[
                "value: \"file:/encryption/of-2026\"",
                "mountPath: /data",
                "mountPath: /tls",
                "mountPath: /encryption",
                "volumeClaimTemplates",
            ],
            without: &["emptyDir"],
        },
    },
    Case {
        name: "a master key in the values, where a release would keep it",
        arguments: &["--set=encryption.masterKey=00"],
        expect: Fails("'masterKey' not allowed"),
    },
    Case {
        name: "usage is pushed, with a header from a Secret, past the network policy",
        arguments: &[
            "--set=usage.to=https://billing.example.com:8443/api/v1/events",
            "--set=usage.every=5m",
            "--set=usage.existingSecret=billing",
            "--set=networkPolicy.enabled=true",
        ],
        expect: Renders {
            with: &[
                "name: DORMOUSE_USAGE_TO\n              value: \"https://billing.example.com:8443/api/v1/events\"",
                "name: DORMOUSE_USAGE_EVERY\n              value: \"5m\"",
                "name: DORMOUSE_USAGE_HEADER_FILE\n              value: \"/usage/usage-headers\"",
                "name: usage\n              mountPath: /usage\n              readOnly: true",
                "secretName: \"billing\"",
                "- port: 8443\n",
                "port: 53\n",
            ],
            without: &["egress: []", "port: 443\n", "MASTER_KEY"],
        },
    },
    Case {
        name: "usage is pushed to the port of its scheme",
        arguments: &[
            "--set=usage.to=https://billing.example.com/events",
            "--set=networkPolicy.enabled=true",
            "--show-only=templates/networkpolicy.yaml",
        ],
        expect: Renders { with: &["- port: 443\n"], without: &["port: 80\n", "169.254"] },
    },
    Case {
        name: "no usage is pushed, and no key is there",
        arguments: &[],
        expect: Renders { with: &[], without: &["DORMOUSE_USAGE", "DORMOUSE_MASTER_KEY", "/usage", "/encryption"] },
    },
    Case {
        name: "a receiver with credentials in its URL",
        arguments: &["--set=usage.to=https://key:secret@billing.example.com"],
        expect: Fails("/usage/to"),
    },
    Case {
        name: "headers for no receiver",
        arguments: &["--set=usage.existingSecret=billing"],
        expect: Fails("/usage/to"),
    },
    Case { name: "usage never", arguments: &["--set=usage.every=never"], expect: Fails("/usage/every") },
    Case {
        name: "a claim of the user's",
        arguments: &["--set=persistence.existingClaim=mine"],
        expect: Renders { with: &["claimName: mine"], without: &["volumeClaimTemplates", "emptyDir"] },
    },
    Case {
        name: "no persistence, whatever else is said about it",
        arguments: &["--set=persistence.enabled=false", "--set=persistence.existingClaim=mine"],
        expect: Renders { with: &["emptyDir: {}"], without: &["volumeClaimTemplates", "claimName"] },
    },
    Case {
        name: "a bucket needs no volume",
        arguments: &[
            "--set=store.url=s3://bucket/some/folder",
            "--set=store.existingSecret=bucket-keys",
            "--set-json=extraEnv=[{\"name\":\"AWS_REGION\",\"value\":\"eu-central-1\"}]",
        ],
        expect: Renders {
            with: &[
                "value: \"s3://bucket/some/folder\"",
                "envFrom:\n            - secretRef:\n                name: bucket-keys",
                "name: AWS_REGION",
            ],
            without: &["volumeClaimTemplates", "volumeMounts", "volumes:", "file:///data"],
        },
    },
    Case {
        name: "a bucket that a role opens, though a volume is described",
        arguments: &["--set=store.url=az://container@account", "--set=persistence.existingClaim=mine"],
        expect: Renders { with: &["value: \"az://container@account\""], without: &["envFrom", "claimName"] },
    },
    Case {
        name: "a storage class",
        arguments: &["--set=persistence.storageClass=fast", "--set=persistence.size=100Gi"],
        expect: Renders { with: &["storageClassName: \"fast\"", "storage: 100Gi"], without: &[] },
    },
    Case {
        name: "no storage class at all",
        arguments: &["--set=persistence.storageClass=-"],
        expect: Renders { with: &["storageClassName: \"\""], without: &[] },
    },
    Case {
        name: "a digest wins over the tag",
        arguments: &[
            "--set=image.registry=registry.example",
            "--set-string=image.tag=9",
            "--set=image.digest=sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
        ],
        expect: Renders { with: &["image: \"registry.example/dormouse@sha256:0123"], without: &["dormouse:9"] },
    },
    Case {
        name: "monitoring, disruption and network policies on demand",
        arguments: &[
            "--set=metrics.serviceMonitor.enabled=true",
            "--set=metrics.serviceMonitor.labels.release=prometheus",
            "--set=podDisruptionBudget.enabled=true",
            "--set=networkPolicy.enabled=true",
            "--set-json=networkPolicy.clients=[{\"podSelector\":{\"matchLabels\":{\"uses\":\"dormouse\"}}}]",
        ],
        expect: Renders {
            with: &[
                "kind: ServiceMonitor",
                "release: prometheus",
                "path: /metrics",
                "maxUnavailable: 1",
                "kind: NetworkPolicy",
                "uses: dormouse",
                "policyTypes: [Ingress, Egress]",
            ],
            without: &[],
        },
    },
    Case {
        name: "a token for metrics, in a Secret and with the scraper",
        arguments: &["--set=metrics.token=m3trics", "--set=metrics.serviceMonitor.enabled=true"],
        expect: Renders {
            with: &[
                "metrics-token: bTN0cmljcw==",
                "name: DORMOUSE_METRICS_TOKEN\n              valueFrom:",
                "name: release-dormouse-metrics\n                  key: metrics-token",
                "credentials:\n          name: release-dormouse-metrics\n          key: metrics-token",
            ],
            without: &["m3trics", "value: none"],
        },
    },
    Case {
        name: "a Secret of the user's with the token for metrics",
        arguments: &["--set=metrics.existingSecret=mine", "--set=metrics.existingSecretKey=scrape"],
        expect: Renders {
            with: &["name: mine\n                  key: scrape"],
            without: &["release-dormouse-metrics"],
        },
    },
    Case {
        name: "metrics for the cluster, where nobody else reaches the port",
        arguments: &[],
        expect: Renders { with: &["name: DORMOUSE_METRICS_TOKEN\n              value: none"], without: &[] },
    },
    Case {
        name: "metrics of a Service for the world are closed",
        arguments: &["--set=service.type=LoadBalancer"],
        expect: Renders { with: &["type: LoadBalancer"], without: &["DORMOUSE_METRICS_TOKEN"] },
    },
    Case {
        name: "a token for metrics beside a Secret",
        arguments: &["--set=metrics.existingSecret=mine", "--set=metrics.token=x"],
        expect: Fails("/metrics"),
    },
    Case {
        name: "a dashboard and alerts on demand",
        arguments: &[
            "--set=fullnameOverride=cache",
            "--set=metrics.dashboard.enabled=true",
            "--set=metrics.dashboard.labels.team=data",
            "--set=metrics.prometheusRule.enabled=true",
            "--set=metrics.prometheusRule.labels.release=prometheus",
        ],
        expect: Renders {
            with: &[
                "kind: ConfigMap",
                "name: cache-dashboard",
                "grafana_dashboard: \"1\"",
                "team: data",
                "\"uid\": \"dormouse\"",
                "kind: PrometheusRule",
                "release: prometheus",
                "expr: up{job=\"cache\"} == 0",
                "{{ $labels.instance }}",
            ],
            without: &[".*dormouse.*"],
        },
    },
    Case {
        name: "a misspelled value of the alerts",
        arguments: &["--set=metrics.prometheusRule.enable=true"],
        expect: Fails("'enable' not allowed"),
    },
    Case {
        name: "a network policy with the data on a volume",
        arguments: &["--set=networkPolicy.enabled=true", "--show-only=templates/networkpolicy.yaml"],
        expect: Renders { with: &["egress: []"], without: &["port: 443"] },
    },
    Case {
        name: "a network policy lets Dormouse reach its bucket, a name server, and the role's credentials",
        arguments: &[
            "--set=networkPolicy.enabled=true",
            "--set=store.url=s3://bucket",
            "--set=networkPolicy.storePorts={443,9000}",
            "--set-json=networkPolicy.egress=[{\"ports\":[{\"port\":4317}]}]",
            "--show-only=templates/networkpolicy.yaml",
        ],
        expect: Renders {
            with: &[
                "port: 53\n          protocol: UDP",
                "port: 443\n",
                "port: 9000\n",
                "cidr: 169.254.169.254/32",
                "port: 4317",
            ],
            without: &["egress: []"],
        },
    },
    Case {
        name: "a network policy that names the store",
        arguments: &[
            "--set=networkPolicy.enabled=true",
            "--set=store.url=s3://bucket",
            "--set=store.existingSecret=keys",
            "--set-json=networkPolicy.store=[{\"ipBlock\":{\"cidr\":\"10.1.0.0/16\"}}]",
            "--show-only=templates/networkpolicy.yaml",
        ],
        expect: Renders { with: &["to:\n        - ipBlock:\n            cidr: 10.1.0.0/16"], without: &["169.254"] },
    },
    Case {
        name: "scheduling, environment and names",
        arguments: &[
            "--set=fullnameOverride=cache",
            "--set-json=extraEnv=[{\"name\":\"RUST_BACKTRACE\",\"value\":\"1\"}]",
            "--set-json=topologySpreadConstraints=[{\"maxSkew\":1,\"topologyKey\":\"zone\"}]",
            "--set=resources.limits.memory=2Gi",
        ],
        expect: Renders {
            with: &["name: cache-headless", "name: RUST_BACKTRACE", "topologyKey: zone", "memory: 2Gi"],
            without: &["name: release-dormouse"],
        },
    },
    Case {
        name: "an account of the user's",
        arguments: &["--set=serviceAccount.create=false", "--set=serviceAccount.name=mine"],
        expect: Renders { with: &["serviceAccountName: mine"], without: &["kind: ServiceAccount"] },
    },
    Case {
        name: "a misspelled value",
        arguments: &["--set=presistence.size=1Gi"],
        expect: Fails("'presistence' not allowed"),
    },
    Case {
        name: "a misspelled option",
        arguments: &["--set=config.sleepafter=5m"],
        expect: Fails("'sleepafter' not allowed"),
    },
    Case {
        name: "more than one pod",
        arguments: &["--set=replicaCount=3"],
        expect: Fails("'replicaCount' not allowed"),
    },
    Case { name: "no duration", arguments: &["--set=config.sleepAfter=soon"], expect: Fails("/config/sleepAfter") },
    Case { name: "no size", arguments: &["--set=config.maxMemory=lots"], expect: Fails("/config/maxMemory") },
    Case {
        name: "an unknown policy",
        arguments: &["--set=config.maxMemoryPolicy=random"],
        expect: Fails("/config/maxMemoryPolicy"),
    },
    Case { name: "no clients", arguments: &["--set=config.maxClients=0"], expect: Fails("/config/maxClients") },
    Case { name: "a port that is none", arguments: &["--set=service.port=70000"], expect: Fails("/service/port") },
    Case {
        name: "a token beside a Secret",
        arguments: &["--set=auth.existingSecret=mine", "--set=auth.token=x"],
        expect: Fails("/auth"),
    },
    Case {
        name: "credentials in a URL",
        arguments: &["--set=store.url=s3://key:secret@bucket"],
        expect: Fails("/store/url"),
    },
    Case { name: "no bucket", arguments: &["--set=store.url=file:///data"], expect: Fails("/store/url") },
    Case {
        name: "a volume that is none",
        arguments: &["--set=persistence.size=big"],
        expect: Fails("/persistence/size"),
    },
    Case {
        name: "a volume that cannot be written",
        arguments: &["--set-json=persistence.accessModes=[\"ReadOnlyMany\"]"],
        expect: Fails("/persistence/accessModes"),
    },
    Case {
        name: "too little time to fall asleep",
        arguments: &["--set=terminationGracePeriodSeconds=1"],
        expect: Fails("/terminationGracePeriodSeconds"),
    },
    Case { name: "a digest that is none", arguments: &["--set=image.digest=latest"], expect: Fails("/image/digest") },
    Case {
        name: "a variable without a name",
        arguments: &["--set-json=extraEnv=[{\"value\":\"1\"}]"],
        expect: Fails("/extraEnv/0"),
    },
];

/// `long`: promtool checks the alerts and the metrics too.
pub(crate) fn run(root: &Path, long: bool) -> Outcome {
    let helm = match tools::helm(root) {
        Ok(helm) => helm,
        Err(problem) => return tools::missing("the chart was", &problem),
    };
    let chart = root.join("charts/dormouse");
    let server = build::server(root)?;
    let mut count = run::check(Command::new(&helm).args(["lint", "--strict", "--quiet"]).arg(&chart))?;
    for case in CASES {
        let mut template = Command::new(&helm);
        template.args(["template", "release"]).arg(&chart).args(case.arguments);
        if !case.arguments.iter().any(|argument| argument.contains("=auth.")) {
            template.arg(TOKEN);
        }
        let (rendered, text) = run::output(&mut template)?;
        let mut problems = case.expect.problems(rendered, &text);
        if rendered && run::output(&mut template)?.1 != text {
            problems.push("comes out differently the second time".to_owned());
        }
        for problem in &problems {
            eprintln!("chart: {}: {problem}", case.name);
        }
        count += Count::of(problems.is_empty());
        if rendered && text.contains("- name: DORMOUSE_") {
            let problems = environment::problems(&server, &text)?;
            for problem in &problems {
                eprintln!("chart: {}: {problem}", case.name);
            }
            count += Count::of(problems.is_empty());
        }
    }
    let problems = monitoring::problems(&chart)?;
    problems.iter().for_each(|problem| eprintln!("chart: {problem}"));
    count += Count::of(problems.is_empty());
    count += monitoring::parsed(root, &chart)?;
    if long {
        count += monitoring::with_promtool(root, &chart, &server)?;
    }
    Ok(count)
}

impl Expect {
    fn problems(&self, rendered: bool, text: &str) -> Vec<String> {
        match self {
            Renders { .. } if !rendered => vec![format!("is refused:\n{text}")],
            Renders { with, without } => {
                let missing = with.iter().filter(|part| !text.contains(**part)).map(|part| format!("lacks `{part}`"));
                let extra = without.iter().filter(|part| text.contains(**part)).map(|part| format!("has `{part}`"));
                missing.chain(extra).collect()
            }
            Fails(_) if rendered => vec!["is not refused".to_owned()],
            Fails(why) if !text.contains(why) => vec![format!("is refused without saying `{why}`:\n{text}")],
            Fails(_) => Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_case_fails_where_it_should() {
        let renders = Renders { with: &["kind: Service"], without: &["emptyDir"] };
        assert_eq!(renders.problems(true, "kind: Service"), [""; 0]);
        assert_eq!(renders.problems(true, "emptyDir"), ["lacks `kind: Service`", "has `emptyDir`"]);
        assert_eq!(renders.problems(false, "kind: Service").len(), 1);
        assert_eq!(Fails("/port").problems(false, "at /port"), [""; 0]);
        assert_eq!(Fails("/port").problems(false, "at /size").len(), 1);
        assert_eq!(Fails("/port").problems(true, "at /port").len(), 1);
    }
}
