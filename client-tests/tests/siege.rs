//! A short siege: see `dormouse_client_tests::siege`. `cargo xtask siege` does the same for as long as one likes.

use dormouse_client_tests::siege::{self, Settings};

/// Times are printed and not judged: tests run beside others. So the loss window is wide too: a server that gets no time to
/// write its log is right to refuse writes. What its log may have to write is bounded all the same, and so is its memory.
#[test]
fn the_server_survives_every_kind_of_tenant() {
    // A build without optimisations has a tenth of the work.
    let elements = if cfg!(debug_assertions) { 50_000 } else { 500_000 };
    let settings = Settings {
        seconds: 16,
        tenants: 34,
        memory_mib: 512,
        workers: 2,
        loss_window: "30s".into(),
        elements,
        seed: 1,
        is_strict: false,
        only: None,
    };
    let report = siege::run(&settings).expect("the server starts");
    println!("{report}");
    assert!(report.failures.is_empty(), "{report}");
    assert!(report.beside_noise.count() > 0);
}
