//! The agent's loop: read, plan, write, remember.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::config::{KubeConfigOptions, Kubeconfig};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, sleep_until};

use super::api::{Answer, Cluster, Events};
use super::cursor::{self, Cursor};
use super::plan::{self, Action, Kind, Written};
use crate::spool::{self, Item, Tail};

/// Records counted between two looks at what is to be written.
const BATCH: usize = 4096;
/// How long to gather after the first news, so that a burst is one write.
const GATHER: Duration = Duration::from_millis(50);
/// How often to look where writes wait for their time.
const TICK: Duration = Duration::from_secs(1);
/// How often to look at all.
const HEARTBEAT: Duration = Duration::from_secs(30);
/// First and longest pause while the API server is away.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));
/// How often ended pods' files are looked for, and how long such a file must not have grown.
const CLEAN_EVERY: Duration = Duration::from_secs(600);
const CLEAN_AGE: SignedDuration = SignedDuration::from_hours(1);

/// What the agent is told when it starts.
#[derive(Debug)]
pub(crate) struct Settings {
    /// How to reach the API server; otherwise $KUBECONFIG, or the pod's service account.
    pub(crate) kubeconfig: Option<PathBuf>,
    /// This node's name.
    pub(crate) node: String,
    /// Where Keep stores its data.
    pub(crate) data_dir: PathBuf,
}

/// Runs until SIGTERM or SIGINT.
///
/// # Errors
/// When there is no usable configuration for the API server, or signals cannot be handled. Once running, the agent retries.
pub(crate) async fn run(settings: Settings) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("cannot handle SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot handle SIGINT")?;
    let client = client(settings.kubeconfig.as_deref()).await?;
    tracing::info!(node = settings.node, data_dir = %settings.data_dir.display(), "reporting");
    let mut agent = Agent::new(&settings.data_dir, Cluster::new(client, settings.node))?;
    let news = Arc::new(Notify::new());
    let notify = Arc::clone(&news);
    spool::on_change(spool::folder(&settings.data_dir), move || notify.notify_one())
        .context("cannot watch the spool")?;
    tokio::select! {
        never = agent.serve(&news) => match never {},
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    // A write that was cut short is found again under its name after the next start.
    agent.save();
    tracing::info!("stopped");
    Ok(())
}

async fn client(kubeconfig: Option<&Path>) -> anyhow::Result<kube::Client> {
    let mut config = match kubeconfig {
        Some(path) => {
            let file =
                Kubeconfig::read_from(path).with_context(|| format!("cannot read {}", path.display()))?;
            kube::Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await?
        }
        None => kube::Config::infer().await.context("no way to the API server; give --kubeconfig")?,
    };
    config.connect_timeout = Some(Duration::from_secs(5));
    config.read_timeout = Some(Duration::from_secs(10));
    kube::Client::try_from(config).context("cannot use this configuration for the API server")
}

/// The agent and its memory.
pub(super) struct Agent<E> {
    folder: PathBuf,
    cursor_path: PathBuf,
    api: E,
    tail: Tail,
    cursor: Cursor,
    unsaved: bool,
    saved: Instant,
    backoff: Option<(Duration, Instant)>,
    cleaned: Instant,
}

impl<E: Events> Agent<E> {
    /// Goes on where the agent before it stopped.
    ///
    /// # Errors
    /// When a cursor that cannot be understood cannot be put out of the way.
    pub(super) fn new(data_dir: &Path, api: E) -> anyhow::Result<Self> {
        let cursor_path = cursor::path(data_dir);
        let cursor = match cursor::load(&cursor_path) {
            Ok(cursor) => cursor,
            Err(error) => {
                let aside = cursor::set_aside(&cursor_path)
                    .with_context(|| format!("cannot read {} ({error})", cursor_path.display()))?;
                tracing::error!(%error, aside = %aside.display(), "cannot read the cursor; reading the spool from its beginning");
                Cursor::default()
            }
        };
        let folder = spool::folder(data_dir);
        let tail = Tail::new(&folder, &cursor.files);
        let now = Instant::now();
        Ok(Self {
            folder,
            cursor_path,
            api,
            tail,
            cursor,
            unsaved: false,
            saved: now,
            backoff: None,
            cleaned: now,
        })
    }

    async fn serve(&mut self, news: &Notify) -> std::convert::Infallible {
        loop {
            let more = self.round(Timestamp::now()).await;
            self.clean().await;
            if !more {
                tokio::select! {
                    () = sleep_until(self.next_look()) => {}
                    () = news.notified() => sleep(GATHER).await,
                }
            }
        }
    }

    fn next_look(&self) -> Instant {
        let now = Instant::now();
        if !plan::is_pending(&self.cursor.desired, &self.cursor.observed) {
            return now + HEARTBEAT;
        }
        self.backoff.map_or(now + TICK, |(_, until)| until.max(now + GATHER))
    }

    /// Counts what is new, writes what is due, remembers both. Returns whether more waits in the spool.
    pub(super) async fn round(&mut self, now: Timestamp) -> bool {
        let more = self.read();
        if self.backoff.is_none_or(|(_, until)| Instant::now() >= until) {
            self.write(now).await;
        }
        plan::forget(&mut self.cursor.desired, &mut self.cursor.observed, now);
        if !more || self.saved.elapsed() >= TICK {
            self.save();
        }
        more
    }

    fn read(&mut self) -> bool {
        let (desired, unsaved) = (&mut self.cursor.desired, &mut self.unsaved);
        let more = self.tail.poll(BATCH, &mut |item| {
            *unsaved = true;
            match item {
                Item::Fault(fault) => {
                    tracing::warn!(
                        file = fault.file,
                        line = fault.line,
                        problem = fault.problem,
                        "skipped a line that is no record"
                    );
                }
                Item::Entry(entry) => {
                    if let Err(error) = desired.absorb(&entry.record, entry.time) {
                        tracing::warn!(%error, "skipped a record");
                    }
                }
            }
            Ok(())
        });
        self.cursor.files = self.tail.positions();
        more.unwrap_or_else(|error| {
            tracing::error!(%error, folder = %self.folder.display(), "cannot read the spool");
            false
        })
    }

    async fn write(&mut self, now: Timestamp) {
        for action in plan::plan(&self.cursor.desired, &self.cursor.observed, now) {
            // An action before it may have taken the whole pod away.
            let Some(series) = self.cursor.desired.get(&action.key) else { continue };
            self.cursor.observed.attempt(&action.key, now);
            self.unsaved = true;
            let count = series.count;
            let answer = self.api.carry_out(&action, series).await;
            if let Answer::Away(cause) = &answer {
                self.cursor.observed.not_attempted(&action.key);
                let pause = self.backoff.map_or(BACKOFF.0, |(pause, _)| (pause * 2).min(BACKOFF.1));
                self.backoff = Some((pause, Instant::now() + pause));
                tracing::warn!(cause, retry_in = ?pause, "cannot write an event");
                return;
            }
            self.backoff = None;
            self.note(&action, count, answer, now);
        }
    }

    fn note(&mut self, action: &Action, count: u64, answer: Answer, at: Timestamp) {
        let Cursor { desired, observed, .. } = &mut self.cursor;
        let key = &action.key;
        match answer {
            Answer::Done => {
                observed.events.insert(key.clone(), Written { count, at });
                tracing::debug!(%key, count, new = action.kind == Kind::Create, "wrote an event");
            }
            // Ours, from before a restart: what it says is not known, only that it says one at least.
            Answer::Exists => {
                observed.events.insert(key.clone(), Written { count: 1, at });
            }
            Answer::Expired => {
                observed.events.remove(key);
            }
            Answer::Gone(cause) => {
                tracing::info!(%key, cause, "dropped the records of a pod whose namespace is gone");
                desired.retain(|other, _| other.pod_uid() != key.pod_uid());
            }
            Answer::Refused(cause) => {
                tracing::error!(%key, cause, "dropped records: the API server refuses their event");
                desired.retain(|other, _| other != key);
            }
            // Tried again within the pod's own writes.
            Answer::Forbidden(cause) => tracing::warn!(%key, cause, "may not write an event"),
            Answer::Away(_) => {}
        }
    }

    /// Writes the cursor. A failure is logged and tried again: reporting goes on, and a restart reads again what was not saved.
    pub(super) fn save(&mut self) {
        if !self.unsaved {
            return;
        }
        self.saved = Instant::now();
        match cursor::save(&self.cursor_path, &self.cursor) {
            Ok(()) => self.unsaved = false,
            Err(error) => {
                tracing::error!(%error, path = %self.cursor_path.display(), "cannot save the cursor")
            }
        }
    }

    /// Deletes the files of pods that have ended, an hour after their last record.
    async fn clean(&mut self) {
        if self.cleaned.elapsed() < CLEAN_EVERY || self.unsaved || self.backoff.is_some() {
            return;
        }
        self.cleaned = Instant::now();
        self.clean_before(Timestamp::now() - CLEAN_AGE).await;
    }

    pub(super) async fn clean_before(&mut self, before: Timestamp) {
        for path in self.tail.idle_since(before.as_second()) {
            // Files without a pod are containers outside Kubernetes: not the agent's.
            let Some(pod) = spool::first_record(&path).and_then(|record| record.pod) else { continue };
            if self.api.has_ended(&pod).await != Some(true) {
                continue;
            }
            match std::fs::remove_file(&path) {
                Ok(()) => {
                    tracing::info!(path = %path.display(), "deleted the records of a pod that has ended")
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => tracing::warn!(%error, path = %path.display(), "cannot delete"),
            }
        }
    }
}
