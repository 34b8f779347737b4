mod callboard;

use std::collections::HashMap;
use std::env;
use std::process::ExitCode;
use std::time::Duration;

use callboard::{Setup, Task};
use serde_json::{json, Value};
use tokio::signal::unix::{signal, SignalKind};

async fn echo(task: Task) -> Result<Value, String> {
    Ok(json!({"echo": task.payload}))
}

async fn sleep(task: Task) -> Result<Value, String> {
    let ms = task.payload["ms"].as_u64().ok_or("ms: expected a number")?;
    task.progress(50.0, "half-way").await;
    tokio::time::sleep(Duration::from_millis(ms)).await; // a cancel drops it here
    Ok(json!({"slept_ms": ms}))
}

async fn fail(task: Task) -> Result<Value, String> {
    Err(task.payload.as_str().unwrap_or("failed").to_owned())
}

fn setting(name: &str, fallback: &str) -> String {
    env::var(name).unwrap_or_else(|_| fallback.to_owned())
}

#[tokio::main]
async fn main() -> ExitCode {
    let agent = Setup {
        id: setting("CALLBOARD_AGENT_ID", "rust-1"),
        pool: setting("CALLBOARD_POOL", "default"),
        url: setting("NATS_URL", "nats://127.0.0.1:4222"),
        slots: setting("CALLBOARD_SLOTS", "1").parse().unwrap_or(1),
        handlers: HashMap::new(),
    };
    let mut terminate = signal(SignalKind::terminate()).expect("SIGTERM can be listened to");
    let stop = async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = tokio::signal::ctrl_c() => {}
        }
    };
    match agent
        .on("echo", echo)
        .on("sleep", sleep)
        .on("fail", fail)
        .run(stop)
        .await
    {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}
