//! An agent of Callboard: it signs in, beats, takes offers, and repeats its reports until they are recorded.
//! The contract is docs/protocol.md, section 3; nothing but a NATS client is needed to keep it.

use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use async_nats::{Client, ConnectOptions, Event, Message, Request, ServerAddr};
use futures_util::StreamExt;
use serde::{Deserialize, Serialize};
use serde_json::{json, Value};
use tokio::sync::Notify;
use tokio::task::AbortHandle;

const REPORT_TIMEOUT: Duration = Duration::from_secs(5);
const MEMORY: Duration = Duration::from_secs(30); // longer than any offer is repeated
const LAST_WORDS: Duration = Duration::from_secs(1);

type Outcome = Result<Value, String>;
type Handler = Box<dyn Fn(Task) -> Pin<Box<dyn Future<Output = Outcome> + Send>> + Send + Sync>;

/// What fences: a task and one of its attempts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Ref {
    pub task_id: String,
    pub attempt: u64,
}

/// One attempt of a task, as it was offered.
pub struct Task {
    /// The task's id is the key for idempotent side effects: a task may run more than once.
    pub attempt: Ref,
    pub payload: Value,
    agent: Arc<Agent>,
}

impl Task {
    /// Tells how far the task is.
    pub async fn progress(&self, percent: f64, message: &str) {
        let body = self.agent.report(
            &self.attempt,
            json!({"percent": percent, "message": message}),
        );
        let subject = self.agent.from("progress");
        let _ = self
            .agent
            .client
            .publish(subject, body.to_string().into())
            .await;
    }
}

/// An order of the orchestrator; which fields are there depends on the verb.
#[derive(Deserialize)]
struct Order {
    epoch: u64,
    #[serde(flatten)]
    attempt: Option<Ref>,
    #[serde(default, rename = "type")]
    task_type: String,
    #[serde(default)]
    payload: Value,
    #[serde(default)]
    grace_ms: u64,
}

#[derive(Clone, Serialize)]
struct AssignAnswer {
    accepted: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
}

/// What register and heartbeat are answered with.
#[derive(Deserialize)]
struct Pulse {
    epoch: u64,
    heartbeat_interval_ms: u64,
    lease_ms: u64,
    cancel: Vec<Ref>,
    drain: bool,
}

/// Why a request has no answer: an error of the protocol's section 2, or silence.
#[derive(Debug)]
pub enum Failure {
    Refused {
        code: String,
        message: String,
        retryable: bool,
    },
    Unanswered(String),
    TooLarge,
}

impl Failure {
    fn code(&self) -> &str {
        match self {
            Failure::Refused { code, .. } => code,
            _ => "",
        }
    }

    fn is_final(&self) -> bool {
        matches!(
            self,
            Failure::Refused {
                retryable: false,
                ..
            }
        )
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Refused { code, message, .. } => write!(f, "{code}: {message}"),
            Failure::Unanswered(why) => f.write_str(why),
            Failure::TooLarge => f.write_str("larger than NATS carries"),
        }
    }
}

/// Builds an agent; `run` starts it.
pub struct Setup {
    pub id: String,
    pub pool: String,
    pub url: String,
    pub slots: usize,
    pub handlers: HashMap<&'static str, Handler>,
}

impl Setup {
    /// Adds the handler of a task type. What it returns is the result, or the message of the failure.
    pub fn on<F, R>(mut self, task_type: &'static str, handler: F) -> Self
    where
        F: Fn(Task) -> R + Send + Sync + 'static,
        R: Future<Output = Outcome> + Send + 'static,
    {
        self.handlers
            .insert(task_type, Box::new(move |task| Box::pin(handler(task))));
        self
    }

    /// Serves until `stop` resolves, then finishes what it runs and leaves; or until it is shut down or replaced.
    pub async fn run(self, stop: impl Future<Output = ()> + Send + 'static) -> Result<(), Failure> {
        let wake = Arc::new(Notify::new());
        let on_connect = wake.clone();
        let servers: Vec<ServerAddr> = self
            .url
            .split(',')
            .map(|url| url.trim().parse().map_err(unanswered))
            .collect::<Result<_, _>>()?;
        let credentials = servers
            .iter()
            .find(|server| server.username().is_some())
            .unwrap_or(&servers[0]);
        let options = match (credentials.username(), credentials.password()) {
            (Some(token), None) => ConnectOptions::with_token(token.to_owned()),
            (Some(user), Some(password)) => {
                ConnectOptions::with_user_and_password(user.to_owned(), password.to_owned())
            }
            (None, _) => ConnectOptions::new(),
        };
        let client = options
            .name(format!("callboard agent {}", self.id))
            .custom_inbox_prefix(format!("_INBOX.{}", self.id)) // the one inbox that an agent's user may listen to
            .retry_on_initial_connect()
            .reconnect_delay_callback(|_| Duration::from_millis(200))
            .event_callback(move |event| {
                let wake = on_connect.clone();
                async move {
                    if event == Event::Connected {
                        wake.notify_one();
                    }
                }
            })
            .connect(servers)
            .await
            .map_err(unanswered)?;
        let root = format!("callboard.v1.{}", self.pool);
        let orders = format!("{root}.to.{}.*", self.id);
        let incarnation = uuid::Uuid::new_v4().to_string();
        let agent = Arc::new(Agent {
            setup: self,
            root,
            incarnation,
            client,
            wake,
            state: Mutex::default(),
        });
        let mut orders = agent.client.subscribe(orders).await.map_err(unanswered)?;
        let listening = agent.clone();
        tokio::spawn(async move {
            while let Some(message) = orders.next().await {
                listening.on_order(message).await;
            }
        });
        let stopping = agent.clone();
        tokio::spawn(async move {
            stop.await;
            stopping.finish(None);
        });
        agent.beat_on().await
    }
}

struct State {
    registered: bool,
    lease_lost: bool,
    drained: bool, // by an operator
    leaving: bool, // by ourselves or by an order to shut down
    leave_by: Option<Instant>,
    epoch: u64,
    seq: u64,
    interval: Duration,
    lease: Duration,
    heard: Option<Instant>, // when the last request that was answered was sent
    alive: usize,           // handlers: the slots in use
    held: HashMap<Ref, Option<AbortHandle>>, // every accepted attempt whose report is not answered
    recent: HashMap<Ref, (AssignAnswer, Instant)>,
}

impl Default for State {
    fn default() -> Self {
        State {
            registered: false,
            lease_lost: false,
            drained: false,
            leaving: false,
            leave_by: None,
            epoch: 0,
            seq: 0,
            interval: Duration::from_secs(5),
            lease: Duration::from_secs(15),
            heard: None,
            alive: 0,
            held: HashMap::new(),
            recent: HashMap::new(),
        }
    }
}

impl State {
    /// Counts from the sending of the last request that was answered.
    fn is_lease_over(&self) -> bool {
        self.heard.is_some_and(|heard| heard.elapsed() > self.lease)
    }

    fn is_done(&self) -> bool {
        self.leaving
            && (self.held.is_empty() || self.leave_by.is_some_and(|by| Instant::now() >= by))
    }

    fn remember(&mut self, attempt: &Ref, answer: AssignAnswer) {
        let now = Instant::now();
        self.recent.retain(|_, (_, until)| *until > now);
        self.recent
            .insert(attempt.clone(), (answer, now + self.lease.max(MEMORY)));
    }

    /// Stops an attempt, of which nothing more is said, and declines it should it be offered again.
    fn cancel(&mut self, attempt: &Ref) {
        self.remember(
            attempt,
            AssignAnswer {
                accepted: false,
                reason: Some("cancelled"),
            },
        );
        if let Some(Some(handler)) = self.held.remove(attempt) {
            handler.abort();
        }
    }

    /// Forgets an attempt whose report is answered.
    fn settle(&mut self, attempt: &Ref) {
        if self.held.remove(attempt).is_some() {
            self.remember(
                attempt,
                AssignAnswer {
                    accepted: true,
                    reason: None,
                },
            );
        }
    }
}

/// One incarnation of an agent of one pool.
struct Agent {
    setup: Setup,
    root: String,
    incarnation: String,
    client: Client,
    wake: Arc<Notify>,
    state: Mutex<State>,
}

impl Agent {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    async fn beat_on(&self) -> Result<(), Failure> {
        let mut failures = 0;
        loop {
            if self.state().is_done() {
                let _ = self
                    .ask(
                        "leave",
                        json!({"incarnation": self.incarnation}),
                        LAST_WORDS,
                    )
                    .await;
                return Ok(());
            }
            let mut pause = match self.beat().await {
                Ok(pause) => {
                    failures = 0;
                    pause
                }
                Err(error) if error.code() == "incarnation_replaced" => return Err(error),
                // Refused for what it says of itself: repeating that does not help.
                Err(error) if error.is_final() && !self.state().registered => return Err(error),
                Err(error) => {
                    eprintln!("not answered: {error}");
                    failures += 1;
                    backoff(failures).min(self.state().interval)
                }
            };
            if let Some(by) = self.state().leave_by {
                pause = pause.min(by.saturating_duration_since(Instant::now()));
            }
            let _ = tokio::time::timeout(pause, self.wake.notified()).await;
        }
    }

    /// Registers or sends a heartbeat, and says how long to wait for the next.
    async fn beat(&self) -> Result<Duration, Failure> {
        let (verb, body, timeout) = {
            let mut state = self.state();
            if state.is_lease_over() {
                state.lease_lost = true;
                state.registered = false;
            }
            let running: Vec<&Ref> = state.held.keys().collect();
            let mut body = json!({"incarnation": self.incarnation, "running": running, "draining": state.leaving});
            if state.registered {
                state.seq += 1;
                body["seq"] = json!(state.seq);
                ("heartbeat", body, state.interval)
            } else {
                body["slots"] = json!(self.setup.slots);
                body["version"] = json!(env!("CARGO_PKG_VERSION"));
                ("register", body, REPORT_TIMEOUT)
            }
        };
        let sent = Instant::now();
        let answer = self.ask(verb, body, timeout).await;
        let mut state = self.state();
        if matches!(&answer, Err(error) if error.code() == "unknown_incarnation") {
            state.registered = false;
            return Ok(Duration::ZERO);
        }
        let pulse: Pulse = serde_json::from_slice(&answer?).map_err(unanswered)?;
        if pulse.epoch < state.epoch && !(verb == "register" && state.lease_lost) {
            return Err(Failure::Unanswered("an owner that is no more".into()));
        }
        state.epoch = pulse.epoch;
        state.interval = Duration::from_millis(pulse.heartbeat_interval_ms.max(20));
        state.lease = Duration::from_millis(pulse.lease_ms);
        state.drained = pulse.drain;
        state.heard = Some(sent);
        if verb == "register" {
            state.registered = true;
            state.lease_lost = false;
        }
        for attempt in &pulse.cancel {
            state.cancel(attempt);
        }
        Ok(state.interval.mul_f64(0.8 + 0.4 * fastrand::f64()))
    }

    /// Takes what the orchestrator asks on `to.<agent_id>.<verb>`.
    async fn on_order(self: &Arc<Self>, message: Message) {
        let verb = message.subject.rsplit('.').next().unwrap_or_default();
        let Ok(order) = serde_json::from_slice::<Order>(&message.payload) else {
            if verb == "assign" {
                let answer = AssignAnswer {
                    accepted: false,
                    reason: Some("invalid_request"),
                };
                self.answer(&message, json!(answer)).await;
            }
            return;
        };
        {
            let mut state = self.state();
            if order.epoch < state.epoch {
                return; // of an owner that is no more
            }
            state.epoch = order.epoch;
        }
        let answer = match (verb, order.attempt) {
            ("assign", Some(attempt)) => {
                json!(self.decide(attempt, &order.task_type, order.payload))
            }
            ("cancel", Some(attempt)) => {
                self.state().cancel(&attempt);
                self.wake.notify_one();
                json!({})
            }
            ("drain", _) => {
                self.state().drained = true;
                json!({})
            }
            ("shutdown", _) => {
                self.finish(Some(Instant::now() + Duration::from_millis(order.grace_ms)));
                json!({})
            }
            _ => return,
        };
        self.answer(&message, answer).await;
    }

    /// Answers an offer; the same offer gets the same answer, and runs once.
    fn decide(self: &Arc<Self>, attempt: Ref, task_type: &str, payload: Value) -> AssignAnswer {
        let mut state = self.state();
        if state.held.contains_key(&attempt) {
            return AssignAnswer {
                accepted: true,
                reason: None,
            };
        }
        match state.recent.get(&attempt) {
            Some((answer, until)) if *until > Instant::now() => return answer.clone(),
            _ => {}
        }
        let handler = self.setup.handlers.get(task_type);
        let reason = if state.leaving || state.drained {
            "draining"
        } else if state.lease_lost || state.is_lease_over() {
            "lease_lost"
        } else if handler.is_none() {
            "unsupported"
        } else if state.alive >= self.setup.slots {
            "busy"
        } else {
            ""
        };
        let (Some(handler), "") = (handler, reason) else {
            let answer = AssignAnswer {
                accepted: false,
                reason: Some(reason),
            };
            state.remember(&attempt, answer.clone());
            return answer;
        };
        let work = handler(Task {
            attempt: attempt.clone(),
            payload,
            agent: self.clone(),
        });
        let running = tokio::spawn(work);
        state.alive += 1;
        state
            .held
            .insert(attempt.clone(), Some(running.abort_handle()));
        let agent = self.clone();
        tokio::spawn(async move {
            let outcome = match running.await {
                Ok(outcome) => outcome,
                Err(error) => Err(error.to_string()), // it panicked, or was cancelled and is not held any more
            };
            agent.state().alive -= 1;
            agent.report_until_recorded(&attempt, outcome).await;
        });
        AssignAnswer {
            accepted: true,
            reason: None,
        }
    }

    /// Repeats a report until it is recorded, refused for good, or nobody wants it any more.
    async fn report_until_recorded(&self, attempt: &Ref, outcome: Outcome) {
        let (mut verb, mut body) = match outcome {
            Ok(result) => ("complete", self.report(attempt, json!({"result": result}))),
            Err(message) => (
                "fail",
                self.report(attempt, json!({"error": {"message": message}})),
            ),
        };
        let mut failures = 0;
        while self.state().held.contains_key(attempt) {
            failures += 1;
            let is_registered = self.state().registered;
            if is_registered {
                match self.ask(verb, body.clone(), REPORT_TIMEOUT).await {
                    Ok(_) => break,
                    Err(error) if error.code() == "unknown_incarnation" => {
                        self.state().registered = false;
                        self.wake.notify_one();
                    }
                    Err(error) if verb == "complete" && is_result_refused(&error) => {
                        let refused = json!({"type": "result_refused", "message": error.to_string(), "retryable": false});
                        (verb, body) = ("fail", self.report(attempt, json!({"error": refused})));
                        failures = 0;
                        continue;
                    }
                    Err(error) if error.is_final() => break,
                    Err(_) => {}
                }
            }
            tokio::time::sleep(backoff(failures)).await;
        }
        self.state().settle(attempt);
        if self.state().leaving {
            self.wake.notify_one();
        }
    }

    /// Takes nothing new, and leaves when all is recorded, or at the given time if one is given.
    fn finish(&self, by: Option<Instant>) {
        let mut state = self.state();
        state.leaving = true;
        state.leave_by = [state.leave_by, by].into_iter().flatten().min();
        self.wake.notify_one();
    }

    /// A request of this agent, and its answer.
    async fn ask(&self, verb: &str, body: Value, timeout: Duration) -> Result<Vec<u8>, Failure> {
        let body = body.to_string();
        let limit = self.client.server_info().max_payload; // 0 before the first connection
        if limit > 0 && body.len() > limit {
            return Err(Failure::TooLarge);
        }
        let request = Request::new().payload(body.into()).timeout(Some(timeout));
        let message = self
            .client
            .send_request(self.from(verb), request)
            .await
            .map_err(unanswered)?;
        let headers = message.headers.as_ref();
        if headers
            .and_then(|headers| headers.get("Nats-Service-Error-Code"))
            .is_none()
        {
            return Ok(message.payload.to_vec());
        }
        let answer: Value = serde_json::from_slice(&message.payload).map_err(unanswered)?;
        let error = &answer["error"];
        Err(Failure::Refused {
            code: error["code"].as_str().unwrap_or_default().into(),
            message: error["message"].as_str().unwrap_or_default().into(),
            retryable: error["retryable"].as_bool().unwrap_or(true),
        })
    }

    async fn answer(&self, message: &Message, body: Value) {
        if let Some(reply) = message.reply.clone() {
            let _ = self.client.publish(reply, body.to_string().into()).await;
        }
    }

    /// The body of complete, fail and progress.
    fn report(&self, attempt: &Ref, mut fields: Value) -> Value {
        fields["task_id"] = json!(attempt.task_id);
        fields["attempt"] = json!(attempt.attempt);
        fields["incarnation"] = json!(self.incarnation);
        fields
    }

    fn from(&self, verb: &str) -> String {
        format!("{}.agent.{}.{verb}", self.root, self.setup.id)
    }
}

fn unanswered(why: impl fmt::Display) -> Failure {
    Failure::Unanswered(why.to_string())
}

fn is_result_refused(error: &Failure) -> bool {
    matches!(error, Failure::TooLarge)
        || ["invalid_request", "payload_too_large"].contains(&error.code())
}

/// Doubles from 200 ms to 5 s, and is spread so that a fleet does not march in step.
fn backoff(failures: u32) -> Duration {
    let delay =
        Duration::from_millis(200 << (failures.clamp(1, 6) - 1)).min(Duration::from_secs(5));
    delay.mul_f64(0.5 + fastrand::f64())
}
