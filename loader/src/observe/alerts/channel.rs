//! Channels: handing one notice to Slack, a webhook or a mail server.
//!
//! Each attempt is bounded in time. No error says an address, which may hold a token, or a password.

use std::time::Duration;

use hmac::{Hmac, KeyInit as _, Mac as _};
use jiff::Timestamp;
use lettre::message::header::ContentType;
use lettre::transport::smtp::authentication::Credentials;
use lettre::transport::smtp::client::{Tls, TlsParameters};
use lettre::{Message, SmtpTransport, Transport as _};
use reqwest::header::CONTENT_TYPE;
use reqwest::{RequestBuilder, StatusCode};
use sha2::Sha256;

use super::notice::{Event, Notice};
use crate::http::{self, HttpOptions};
use crate::project::alerts::{Channel, Level, Mail, SmtpTls};
use crate::project::{Secret, TlsFiles};

/// For one attempt over HTTP, from the first byte to the last, and for each step of sending a mail.
const TIMEOUT: Duration = Duration::from_secs(10);
/// The signature of a webhook: `t=<seconds since 1970>,v1=<hex of HMAC-SHA256 over "<t>.<body>">`.
const SIGNATURE: &str = "x-larder-signature";
/// The id of the notice, which is the same in repetitions.
const ID: &str = "x-larder-notice";

/// Why a notice was not taken.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ChannelError {
    /// It may be taken later.
    #[error("{0}")]
    Later(String),
    /// The channel does not want this one, now or later.
    #[error("{0}")]
    Never(String),
}

/// Hands a notice to a channel. Blocking.
///
/// # Errors
/// [`ChannelError`] says whether to try again.
pub(super) fn send(channel: &Channel, notice: &Notice, now: Timestamp) -> Result<(), ChannelError> {
    match channel {
        Channel::Slack(url) => {
            let body = serde_json::json!({ "text": slack_text(notice) }).to_string();
            post(url, |request| request.body(body))
        }
        Channel::Webhook { url, secret } => {
            let body = serde_json::to_string(notice).map_err(|error| ChannelError::Never(error.to_string()))?;
            post(url, |request| {
                let request = request.header(ID, &notice.id);
                let request = match secret {
                    Some(secret) => request.header(SIGNATURE, signature(secret, now.as_second(), &body)),
                    None => request,
                };
                request.body(body)
            })
        }
        Channel::Mail(mail) => send_mail(mail, notice),
    }
}

fn post(url: &Secret, fill: impl FnOnce(RequestBuilder) -> RequestBuilder) -> Result<(), ChannelError> {
    // Notices are rare, so nothing is kept from one to the next.
    let tls = url.0.starts_with("https://").then(TlsFiles::default);
    let options = HttpOptions { tls: tls.as_ref(), timeout: TIMEOUT, proxy: true };
    let client = http::client(&options).map_err(|error| ChannelError::Later(error.to_string()))?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| ChannelError::Later(error.to_string()))?;
    let request = fill(client.post(&url.0).header(CONTENT_TYPE, "application/json"));
    // The answer's body is not read: a status says enough, and a body could hold anything.
    let status = match runtime.block_on(async { request.send().await }) {
        Ok(answer) => answer.status(),
        Err(error) => return Err(ChannelError::Later(http::reason(&error))),
    };
    let message = format!("it answered {status}");
    match status {
        status if status.is_success() => Ok(()),
        StatusCode::BAD_REQUEST | StatusCode::PAYLOAD_TOO_LARGE | StatusCode::UNPROCESSABLE_ENTITY => {
            Err(ChannelError::Never(message))
        }
        _ => Err(ChannelError::Later(message)),
    }
}

/// See [`SIGNATURE`]. With the time in it, a signature that somebody kept is of no use later.
pub(super) fn signature(secret: &Secret, seconds: i64, body: &str) -> String {
    // A key of any length is one for HMAC.
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(secret.0.as_bytes()) else { return String::new() };
    mac.update(seconds.to_string().as_bytes());
    mac.update(b".");
    mac.update(body.as_bytes());
    let hex: String = mac.finalize().into_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
    format!("t={seconds},v1={hex}")
}

fn slack_text(notice: &Notice) -> String {
    // The three characters that mean something to Slack.
    let escape = |text: &str| text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    let sign = match (notice.event, notice.level) {
        (Event::Recovered, _) => ":white_check_mark:",
        (_, Some(Level::Critical)) => ":rotating_light:",
        (_, Some(Level::Warning)) => ":warning:",
        (_, None) => ":information_source:",
    };
    let mut text = format!("{sign} *{}*\n{}", escape(&notice.title), escape(&notice.what));
    if let Some(todo) = &notice.todo {
        text.push_str(&format!("\n{}", escape(todo)));
    }
    if let Some(command) = &notice.command {
        text.push_str(&format!("\n`{}`", escape(command)));
    }
    text
}

fn send_mail(mail: &Mail, notice: &Notice) -> Result<(), ChannelError> {
    let mut message = Message::builder()
        .from(mail.from.clone())
        .subject(&notice.title)
        // Mail servers and readers know a repetition by it.
        .message_id(Some(format!("<{}@larder-loader>", notice.id)))
        .header(ContentType::TEXT_PLAIN);
    for to in &mail.to {
        message = message.to(to.clone());
    }
    let message = message.body(notice.body()).map_err(|error| ChannelError::Never(error.to_string()))?;
    let sent = transport(mail).map_err(|error| ChannelError::Later(error.to_string()))?.send(&message);
    // A server that refuses for good refuses the login or a recipient, which the project's files may yet correct.
    sent.map(drop).map_err(|error| ChannelError::Later(error.to_string()))
}

fn transport(mail: &Mail) -> Result<SmtpTransport, lettre::transport::smtp::Error> {
    let parameters = || TlsParameters::new(mail.host.clone());
    let (tls, port) = match mail.tls {
        SmtpTls::Tls => (Tls::Wrapper(parameters()?), 465),
        SmtpTls::StartTls => (Tls::Required(parameters()?), 587),
        SmtpTls::None => (Tls::None, 25),
    };
    let builder =
        SmtpTransport::builder_dangerous(&mail.host).port(mail.port.unwrap_or(port)).tls(tls).timeout(Some(TIMEOUT));
    let builder = match &mail.login {
        Some((user, password)) => builder.credentials(Credentials::new(user.clone(), password.0.clone())),
        None => builder,
    };
    Ok(builder.build())
}
