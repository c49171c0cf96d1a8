//! `wa-gateway`: settings, log, gateway, signals, exit codes.

use std::process::ExitCode;
use std::time::Duration;

use wa_gateway::{Config, Gateway, cli};

/// How long an orderly stop may take; docker compose is told 30 s.
const GRACE: Duration = Duration::from_secs(20);

#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[global_allocator]
static ALLOCATOR: wa_gateway::memory::Allocator = wa_gateway::memory::Allocator;

fn main() -> ExitCode {
    let command = match cli::Command::parse(std::env::args().skip(1)) {
        Ok(command) => command,
        Err(what) => return cli::misused(&what),
    };
    let config = match Config::from_env() {
        Ok(config) => config,
        Err(error) => {
            cli::complain(&error);
            return ExitCode::from(cli::BAD_USAGE);
        }
    };
    if let Some(ended) = command.run(&config) {
        return ended;
    }
    cli::start_log(&config);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let ended = runtime.map_err(Into::into).and_then(|runtime| {
        let ended = runtime.block_on(run(config));
        // A download or an upload that hangs has a thread of its own, which would be waited for.
        runtime.shutdown_background();
        ended
    });
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(config: Config) -> anyhow::Result<()> {
    let mut signals = cli::Signals::listen()?;
    let gateway = Gateway::bind(config).await?;
    tokio::select! {
        () = signals.next() => {}
        () = gateway.failed() => anyhow::bail!("a part of the gateway has ended; see above"),
    }
    tracing::info!("stopping; once more to stop at once");
    gateway.shutdown(GRACE, signals.next()).await;
    Ok(())
}
