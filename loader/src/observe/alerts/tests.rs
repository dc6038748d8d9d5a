//! Alerts over simulated runs and clocks, and channels that are real sockets.

use std::path::Path;

use super::courier::carry;
use super::*;
use crate::observe::sinks::{HttpSink, SmtpSink};
use crate::project::Secret;
use crate::project::alerts::{Level, Levels, Mail, Rejects, Rules, SmtpTls};

/// A sync `s` whose rules all are on, its state, and a clock that stands still until it is moved.
struct World {
    _dir: tempfile::TempDir,
    alerts: Alerts,
    policy: AlertPolicy,
    sync: SyncName,
    now: Timestamp,
    runs: u32,
}

const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);

fn rules() -> Rules {
    let levels = |warning, critical| Levels { warning: Some(warning), critical: Some(critical) };
    let rejects = |rows, percent| Rejects { rows, percent };
    Rules {
        failed: Levels { warning: Some(1), critical: Some(3) },
        blocked: Levels { warning: None, critical: Some(()) },
        rejected: Levels { warning: Some(rejects(Some(1), None)), critical: Some(rejects(None, Some(10.0))) },
        slow: levels(10 * MINUTE, HOUR),
        stale: levels(6 * HOUR, 24 * HOUR),
        row_drop: Levels { warning: Some(20.0), critical: Some(50.0) },
    }
}

fn open(dir: &Path, destinations: &[&str], policy: &AlertPolicy) -> Alerts {
    let watched =
        Watched { policy: policy.clone(), destinations: destinations.iter().map(|name| (*name).to_owned()).collect() };
    Alerts {
        database: State::open(dir).unwrap().database,
        syncs: BTreeMap::from([(SyncName::new("s").unwrap(), watched)]),
        running: Mutex::default(),
        courier: None,
    }
}

fn world(destinations: &[&str], change: impl FnOnce(&mut AlertPolicy)) -> World {
    let channels = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    let notify =
        BTreeMap::from([(Level::Warning, channels(&["team"])), (Level::Critical, channels(&["team", "pager"]))]);
    let mut policy = AlertPolicy { rules: rules(), notify, recover_after: 1 };
    change(&mut policy);
    let dir = tempfile::tempdir().unwrap();
    let alerts = open(dir.path(), destinations, &policy);
    let now = "2026-03-01T00:00:00Z".parse().unwrap();
    World { _dir: dir, alerts, policy, sync: SyncName::new("s").unwrap(), now, runs: 0 }
}

/// A run that took a minute, read a thousand rows and went well.
fn good() -> RunFacts {
    RunFacts {
        run: String::new(),
        at: Timestamp::UNIX_EPOCH,
        took: MINUTE,
        whole: Part { end: End::Good, error: None },
        parts: BTreeMap::new(),
        rows: Some(1000),
        rejected: 0,
    }
}

fn ended(end: End) -> Part {
    Part { end, error: Some("the reason".to_owned()) }
}

fn failed() -> RunFacts {
    RunFacts { whole: ended(End::Failed), rows: None, ..good() }
}

impl World {
    fn run(&mut self, facts: RunFacts) {
        self.runs += 1;
        self.now += MINUTE;
        let facts = RunFacts { run: format!("r{}", self.runs), at: self.now, ..facts };
        self.alerts.judge(&self.sync, &self.policy, &facts);
    }

    fn tick_after(&mut self, span: Duration) {
        self.now += span;
        self.alerts.tick(self.now);
    }

    /// The titles of the notices that were queued since this was last asked, with their channels.
    fn told(&self) -> Vec<String> {
        let waiting = self.alerts.database.waiting().unwrap();
        waiting.iter().for_each(|notice| self.alerts.database.settle(notice.number).unwrap());
        waiting.iter().map(|waiting| format!("{}: {}", waiting.channel, waiting.notice.title)).collect()
    }

    /// What was said with the last notice.
    fn last_words(&self) -> String {
        self.alerts.database.waiting().unwrap().last().unwrap().notice.what.clone()
    }

    fn assert_told(&self, expected: &[&str]) {
        assert_eq!(self.told(), expected);
    }
}

#[test]
fn failing_runs_are_told_once_a_level_and_so_is_the_recovery() {
    let mut world = world(&[], |_| ());
    world.run(good());
    world.assert_told(&[]);
    world.run(failed());
    assert_eq!(world.last_words(), "Run r2 failed: the reason");
    world.assert_told(&["team: [warning] sync s: runs fail"]);
    world.run(failed());
    world.assert_told(&[]);
    world.run(failed());
    assert_eq!(world.last_words(), "Run r4 failed, the 3rd in a row: the reason");
    world.assert_told(&["team: [critical] sync s: runs fail", "pager: [critical] sync s: runs fail"]);
    world.run(failed());
    world.assert_told(&[]);
    world.run(good());
    let recovered = "[recovered] sync s: runs fail is over after 4m";
    world.assert_told(&[&format!("team: {recovered}"), &format!("pager: {recovered}")]);
    world.run(good());
    world.assert_told(&[]);
}

#[test]
fn cancelled_run_says_nothing_about_failure() {
    let mut world = world(&[], |_| ());
    world.run(failed());
    world.told();
    world.run(RunFacts { whole: Part { end: End::Cancelled, error: None }, rows: None, ..good() });
    world.assert_told(&[]);
    world.run(good());
    world.assert_told(&["team: [recovered] sync s: runs fail is over after 2m"]);
}

#[test]
fn blocked_run_is_told_until_one_passes_the_guards() {
    let mut world = world(&[], |policy| policy.rules.row_drop = Levels::default());
    let blocked = || RunFacts { whole: ended(End::Blocked), ..good() };
    world.run(blocked());
    assert_eq!(world.last_words(), "Run r1 was stopped by a guard: the reason");
    let title = "[critical] sync s: stopped by a guard";
    world.assert_told(&[&format!("team: {title}"), &format!("pager: {title}")]);
    world.run(blocked());
    world.run(failed());
    world.assert_told(&["team: [warning] sync s: runs fail"]);
    world.run(good());
    assert_eq!(world.told().len(), 3, "the guard's recovery for two channels, the failure's for one");
}

#[test]
fn rejected_rows_are_told_by_number_and_by_share() {
    let mut world = world(&[], |_| ());
    world.run(RunFacts { rejected: 1, ..good() });
    assert_eq!(world.last_words(), "Run r1: 1 of 1000 rows were rejected (0.1 %).");
    world.assert_told(&["team: [warning] sync s: rows are rejected"]);
    world.run(RunFacts { rejected: 99, ..good() });
    world.assert_told(&[]);
    world.run(RunFacts { rejected: 100, ..good() });
    let title = "[critical] sync s: rows are rejected";
    world.assert_told(&[&format!("team: {title}"), &format!("pager: {title}")]);
    // A run that failed does not know how many would have been rejected.
    world.run(failed());
    world.told();
    world.run(good());
    assert!(world.told().contains(&"team: [recovered] sync s: rows are rejected is over after 4m".to_owned()));
}

#[test]
fn long_run_is_told_while_it_is_under_way_and_recovers_with_a_quick_one() {
    let mut world = world(&[], |policy| policy.rules.stale = Levels::default());
    let since = world.now;
    world.alerts.running().insert("r0".to_owned(), Running { sync: world.sync.clone(), since });
    world.tick_after(9 * MINUTE);
    world.assert_told(&[]);
    world.tick_after(MINUTE);
    assert_eq!(world.last_words(), "Run r0 has been under way for 10m, longer than 10m.");
    world.assert_told(&["team: [warning] sync s: runs take too long"]);
    world.tick_after(MINUTE);
    world.assert_told(&[]);
    world.alerts.running().clear();
    world.run(RunFacts { took: 12 * MINUTE, ..good() });
    world.assert_told(&[]);
    // Ending early by failing is not being quick.
    world.run(failed());
    world.assert_told(&["team: [warning] sync s: runs fail"]);
    world.run(good());
    let told = world.told();
    assert!(told.iter().any(|title| title.starts_with("team: [recovered] sync s: runs take too long")), "{told:?}");
}

#[test]
fn sync_that_has_not_succeeded_for_long_is_told() {
    let mut world = world(&[], |policy| policy.rules.failed = Levels::default());
    // Never seen before: the time counts from now.
    world.tick_after(MINUTE);
    world.tick_after(5 * HOUR);
    world.assert_told(&[]);
    world.tick_after(HOUR);
    assert_eq!(world.last_words(), "No run has succeeded in the 6h since this sync is watched.");
    world.assert_told(&["team: [warning] sync s: no run has succeeded for too long"]);
    world.tick_after(HOUR);
    world.run(failed());
    world.assert_told(&[]);
    world.tick_after(18 * HOUR);
    let title = "[critical] sync s: no run has succeeded for too long";
    world.assert_told(&[&format!("team: {title}"), &format!("pager: {title}")]);
    world.run(good());
    assert_eq!(world.told().len(), 2);
    let succeeded = world.now;
    world.tick_after(6 * HOUR);
    assert!(world.last_words().contains(&format!("the last one that did ended {succeeded}")), "{}", world.last_words());
}

#[test]
fn fewer_rows_are_told_and_become_usual_if_they_stay() {
    let mut world = world(&[], |_| ());
    for rows in [1000, 1010, 990, 1000] {
        world.run(RunFacts { rows: Some(rows), ..good() });
    }
    world.assert_told(&[]);
    world.run(RunFacts { rows: Some(790), ..good() });
    assert_eq!(world.last_words(), "Run r5: the query returned 790 rows, 21.0 % fewer than the usual 1000.");
    world.assert_told(&["team: [warning] sync s: the query returns fewer rows"]);
    world.run(RunFacts { rows: Some(1000), ..good() });
    assert_eq!(world.told().len(), 1, "no recovery when the rows are back");
    let mut heard = Vec::new();
    for _ in 0..10 {
        world.run(RunFacts { rows: Some(400), ..good() });
        heard.extend(world.told());
    }
    let levels: Vec<&str> = heard.iter().filter_map(|title| title.split(['[', ']']).nth(1)).collect();
    assert_eq!(levels, ["critical", "critical", "warning", "warning", "recovered", "recovered"], "{heard:?}");
}

#[test]
fn alert_of_what_fails_every_other_time_does_not_flap() {
    let mut world = world(&[], |policy| policy.recover_after = 3);
    for _ in 0..5 {
        world.run(failed());
        world.run(good());
    }
    world.assert_told(&["team: [warning] sync s: runs fail"]);
    world.run(good());
    world.run(good());
    assert_eq!(world.told(), ["team: [recovered] sync s: runs fail is over after 11m"]);
}

#[test]
fn each_destination_has_an_alert_of_its_own_and_the_source_another() {
    let mut world = world(&["eu", "us"], |_| ());
    let parts = |eu, us| RunFacts {
        parts: BTreeMap::from([("eu".to_owned(), ended(eu)), ("us".to_owned(), ended(us))]),
        ..good()
    };
    world.run(parts(End::Failed, End::Good));
    world.assert_told(&["team: [warning] sync s to eu: runs fail"]);
    world.run(parts(End::Failed, End::Failed));
    world.assert_told(&["team: [warning] sync s to us: runs fail"]);
    world.run(failed());
    world.assert_told(&["team: [warning] sync s: runs fail"]);
    world.run(parts(End::Good, End::Blocked));
    let blocked = "[critical] sync s to us: stopped by a guard";
    world.assert_told(&[
        "team: [recovered] sync s: runs fail is over after 1m",
        "team: [recovered] sync s to eu: runs fail is over after 3m",
        &format!("team: {blocked}"),
        &format!("pager: {blocked}"),
    ]);
    world.tick_after(6 * HOUR);
    world.assert_told(&[
        "team: [warning] sync s to eu: no run has succeeded for too long",
        "team: [warning] sync s to us: no run has succeeded for too long",
    ]);
}

#[test]
fn alerts_outlive_the_process() {
    let mut world = world(&[], |_| ());
    world.run(failed());
    world.told();
    world.alerts = open(world._dir.path(), &[], &world.policy);
    world.run(failed());
    world.assert_told(&[]);
    let firing = world.alerts.database.firing().unwrap();
    assert_eq!((firing.len(), firing[0].rule, firing[0].level), (1, Rule::Failed, Level::Warning));
    world.run(good());
    world.assert_told(&["team: [recovered] sync s: runs fail is over after 2m"]);
}

#[test]
fn rules_that_are_off_have_no_alert_left() {
    let mut world = world(&[], |_| ());
    world.run(failed());
    let off = AlertPolicy { rules: Rules { failed: Levels::default(), ..rules() }, ..world.policy.clone() };
    let watched = Watched { policy: off, destinations: Vec::new() };
    forget_others(&world.alerts.database, &BTreeMap::from([(world.sync.clone(), watched)])).unwrap();
    assert!(world.alerts.database.firing().unwrap().is_empty());
}

fn channels(of: impl IntoIterator<Item = (&'static str, Channel)>) -> BTreeMap<String, Channel> {
    of.into_iter().map(|(name, channel)| (name.to_owned(), channel)).collect()
}

fn webhook(sink: &HttpSink) -> Channel {
    Channel::Webhook { url: Secret(sink.url()), secret: Some(Secret("key".to_owned())) }
}

impl World {
    /// Carries what is due, until nothing is.
    fn carry(&self, channels: &BTreeMap<String, Channel>) {
        while carry(&self.alerts.database, channels, self.now).unwrap() {}
    }

    fn waiting(&self) -> usize {
        self.alerts.database.waiting().unwrap().len()
    }
}

#[test]
fn webhook_gets_a_signed_notice() {
    let mut world = world(&[], |_| ());
    let sink = HttpSink::start();
    world.run(failed());
    world.carry(&channels([("team", webhook(&sink))]));
    let request = sink.take();
    let body: serde_json::Value = serde_json::from_str(&request.body).unwrap();
    assert_eq!(
        (&body["event"], &body["rule"], &body["level"]),
        (&"raised".into(), &"failed".into(), &"warning".into())
    );
    assert_eq!((&body["sync"], &body["run"], &body["version"]), (&"s".into(), &"r1".into(), &1.into()));
    assert_eq!(body["id"], *request.header("x-larder-notice"));
    let seconds = world.now.as_second();
    let signature = channel::signature(&Secret("key".to_owned()), seconds, &request.body);
    assert_eq!(request.header("x-larder-signature"), signature);
    assert!(signature.starts_with(&format!("t={seconds},v1=")), "{signature}");
    assert_eq!(world.waiting(), 0);
}

#[test]
fn signature_is_that_of_the_documentation() {
    let signature = channel::signature(&Secret("key".to_owned()), 1_772_323_200, r#"{"a":1}"#);
    // printf '%s' '1772323200.{"a":1}' | openssl dgst -sha256 -hmac key
    assert_eq!(signature, "t=1772323200,v1=7a4894845c3f25c023620fe40830b4cd215e984cd5ecdf088fbf0d1ce4bceea6");
}

#[test]
fn slack_gets_text_in_which_nothing_is_markup_by_accident() {
    let mut world = world(&[], |_| ());
    let sink = HttpSink::start();
    let whole = Part { end: End::Failed, error: Some("<!channel> & co".to_owned()) };
    world.run(RunFacts { whole, rows: None, ..good() });
    world.carry(&channels([("team", Channel::Slack(Secret(sink.url())))]));
    let body: serde_json::Value = serde_json::from_str(&sink.take().body).unwrap();
    let text = body["text"].as_str().unwrap();
    assert!(text.starts_with(":warning: *[warning] sync s: runs fail*\n"), "{text}");
    assert!(text.contains("&lt;!channel&gt; &amp; co"), "{text}");
    assert!(text.ends_with("`larder-loader history s`"), "{text}");
}

#[test]
fn mail_server_gets_a_mail() {
    let mut world = world(&[], |_| ());
    let sink = SmtpSink::start();
    let mail = Mail {
        host: "127.0.0.1".to_owned(),
        port: Some(sink.port),
        tls: SmtpTls::None,
        login: None,
        from: "Larder <larder@example.com>".parse().unwrap(),
        to: vec!["a@example.com".parse().unwrap(), "b@example.com".parse().unwrap()],
    };
    world.run(failed());
    world.carry(&channels([("team", Channel::Mail(mail))]));
    let mail = sink.take();
    assert_eq!(mail.recipients, ["a@example.com", "b@example.com"]);
    assert!(mail.text.contains("Subject: [warning] sync s: runs fail\r\n"), "{}", mail.text);
    assert!(mail.text.contains("Run r1 failed: the reason\r\n"), "{}", mail.text);
    assert!(mail.text.contains("larder-loader history s"), "{}", mail.text);
    assert_eq!(world.waiting(), 0);
}

#[test]
fn channel_that_is_down_gets_everything_in_order_when_it_is_back() {
    let mut world = world(&[], |_| ());
    let sink = HttpSink::start();
    let other = HttpSink::start();
    let channels = channels([("team", webhook(&sink)), ("pager", webhook(&other))]);
    sink.answer_with(503);
    for _ in 0..3 {
        world.run(failed());
        world.carry(&channels);
    }
    world.run(good());
    world.carry(&channels);
    assert_eq!(world.waiting(), 3, "raised, raised, recovered wait for the one that is down");
    assert_eq!(other.take_all().len(), 2, "the other one had to wait");
    let attempts = sink.take_all().len();
    assert!(attempts >= 1);
    let error = world.alerts.database.waiting().unwrap()[0].error.clone();
    assert_eq!(error.as_deref(), Some("it answered 503 Service Unavailable"));
    sink.answer_with(200);
    for _ in 0..3 {
        world.now += HOUR;
        world.carry(&channels);
    }
    let events: Vec<String> = sink
        .take_all()
        .iter()
        .map(|request| {
            let body: serde_json::Value = serde_json::from_str(&request.body).unwrap();
            format!("{} {}", body["event"].as_str().unwrap(), body["level"].as_str().unwrap_or("-"))
        })
        .collect();
    assert_eq!(events, ["raised warning", "raised critical", "recovered -"]);
    assert_eq!(world.waiting(), 0);
}

#[test]
fn notice_that_is_refused_for_good_or_too_old_is_dropped() {
    let mut world = world(&[], |_| ());
    let sink = HttpSink::start();
    let channels = channels([("team", webhook(&sink))]);
    sink.answer_with(400);
    world.run(failed());
    world.carry(&channels);
    assert_eq!((sink.take_all().len(), world.waiting()), (1, 0));
    sink.answer_with(404);
    world.run(good());
    world.carry(&channels);
    assert_eq!((sink.take_all().len(), world.waiting()), (1, 1));
    world.now += 25 * HOUR;
    world.carry(&channels);
    assert_eq!((sink.take_all().len(), world.waiting()), (1, 0));
}

#[test]
fn errors_of_channels_do_not_show_their_address() {
    // Nobody listens there.
    let url = "http://127.0.0.1:1/T000/secret-token".to_owned();
    let error = test_channel("team", &Channel::Slack(Secret(url))).unwrap_err().to_string();
    assert!(!error.contains("secret-token"), "{error}");
    assert!(!error.is_empty());
}

#[test]
fn notice_that_is_being_sent_is_not_sent_by_another_process_too() {
    let mut world = world(&[], |_| ());
    world.run(failed());
    assert!(world.alerts.database.claim_due(world.now).unwrap().is_some());
    assert!(world.alerts.database.claim_due(world.now).unwrap().is_none());
    // The process has died.
    assert!(world.alerts.database.claim_due(world.now + HOUR).unwrap().is_some());
}

#[test]
fn queue_is_bounded_and_drops_the_oldest() {
    let world = world(&[], |_| ());
    let queue = |number: u64| {
        let notice = Notice::of_test(number.to_string(), "team", world.now);
        world.alerts.database.alerts(|tables| tables.queue("team", &notice, world.now)).unwrap()
    };
    let limit = crate::state::alerts::MAX_WAITING;
    let dropped: usize = (0..limit).map(queue).sum();
    assert_eq!(dropped, 0);
    assert_eq!(queue(limit), 1);
    let waiting = world.alerts.database.waiting().unwrap();
    assert_eq!((waiting.len() as u64, waiting[0].notice.id.as_str()), (limit, "1"));
}

#[test]
fn courier_carries_on_a_thread_of_its_own() {
    let mut world = world(&[], |_| ());
    let sink = HttpSink::start();
    world.alerts.courier =
        Some(Courier::start(world._dir.path().to_path_buf(), channels([("team", webhook(&sink))])).unwrap());
    world.run(failed());
    world.alerts.finish(Duration::from_secs(20));
    assert_eq!(sink.take_all().len(), 1);
}
