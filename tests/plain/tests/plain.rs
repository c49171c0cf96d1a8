//! What only the plain build does: it takes no loopback server for WhatsApp, by its Noise check and by its settings.

use std::fs::File;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use wa_gateway::config::Config;
use whatsapp_rust::handshake::HandshakeError;
use whatsapp_rust::http::UreqHttpClient;
use whatsapp_rust::store::persistence_manager::PersistenceManager;
use whatsapp_rust::transport::TokioWebSocketTransportFactory;
use whatsapp_rust::wacore::handshake::HandshakeError as CoreError;
use whatsapp_rust::wacore::store::in_memory::InMemoryBackend;
use whatsapp_rust::{Client, ConnectError, TokioRuntime};
use whatsapp_simulator::{Options, Simulator};

/// Every wait of these tests ends by then.
const DEADLINE: Duration = Duration::from_secs(30);

/// A setting that only a build with the feature `simulator` takes.
const SIMULATOR_SETTINGS: [(&str, &str); 2] =
    [("WHATSAPP_WS_URL", "ws://127.0.0.1:9/ws/chat"), ("WHATSAPP_MEDIA_URL", "http://127.0.0.1:9")];

/// Fails where these tests would prove nothing: in one cargo invocation with the gateway's own tests.
fn assert_plain() {
    let nothing: [(&str, &str); 0] = [];
    let config = Config::from_vars(nothing);
    let plain = config.is_ok_and(|config| config.simulator.is_none());
    assert!(plain, "the feature `simulator` is on in this build: run `cargo test -p wa-gateway-plain` by itself");
}

#[tokio::test]
async fn a_noise_chain_that_whatsapps_root_did_not_sign_is_refused() {
    assert_plain();
    let simulator = Simulator::start(Options::default()).await.unwrap();
    let store = PersistenceManager::new(Arc::new(InMemoryBackend::new())).await.unwrap();
    let client = Client::builder()
        .with_runtime(TokioRuntime)
        .with_persistence_manager(Arc::new(store))
        .with_transport_factory(TokioWebSocketTransportFactory::new().with_url(simulator.ws_url()))
        .with_http_client(UreqHttpClient::new())
        // Given, so that none is looked up.
        .with_version_override((2, 3000, 1_042_742_319))
        .build()
        .await
        .unwrap()
        .into_client();
    let answer = tokio::time::timeout(DEADLINE, client.connect()).await.expect("no answer in time");
    let why = answer.expect_err("the simulator was taken for WhatsApp");
    let refused = matches!(&why, ConnectError::Handshake(HandshakeError::Core(CoreError::CertVerification(_))));
    assert!(refused, "{why:?}");
    tokio::time::timeout(DEADLINE, client.disconnect()).await.expect("no end in time");
}

#[test]
fn a_simulators_address_is_a_problem_that_is_named() {
    assert_plain();
    for (name, value) in SIMULATOR_SETTINGS {
        let problems = Config::from_vars([(name, value)]).expect_err(name).problems;
        assert_eq!(problems.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), [name]);
    }
}

#[test]
fn the_program_exits_with_64_and_names_the_setting() {
    assert_plain();
    for (name, value) in SIMULATOR_SETTINGS {
        let folder = tempfile::tempdir().unwrap();
        let (code, output) = run(folder.path(), name, value);
        assert_eq!(code, Some(64), "{output}");
        assert!(output.contains(name), "{output}");
        let left: Vec<_> = std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, ["output"], "it began to work");
    }
}

/// Runs the program in this folder with nothing but this setting; its exit code and what it printed.
fn run(folder: &Path, name: &str, value: &str) -> (Option<i32>, String) {
    let output = folder.join("output");
    let file = File::create(&output).expect("a file for the output");
    let mut program = Command::new(env!("CARGO_BIN_EXE_wa-gateway-plain"))
        .current_dir(folder)
        .env_clear()
        .env("PORT", "0")
        .env(name, value)
        .stdin(Stdio::null())
        .stdout(file.try_clone().expect("a second handle"))
        .stderr(file)
        .spawn()
        .expect("the program starts");
    let begun = Instant::now();
    let status = loop {
        if let Some(status) = program.try_wait().expect("its state can be asked") {
            break status;
        }
        if begun.elapsed() > DEADLINE {
            program.kill().expect("it can be killed");
            program.wait().expect("it ends");
            panic!("it still runs");
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    (status.code(), std::fs::read_to_string(&output).expect("the output can be read"))
}
