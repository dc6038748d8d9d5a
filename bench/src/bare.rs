//! A bare hyper server: what HTTP itself costs, as the measure for what a lookup adds.
//!
//! Same library, runtime and socket options as larder-server, one thread, one fixed answer. It ends when its standard
//! input closes, so that it never outlives who started it.

use std::convert::Infallible;
use std::io::{Read as _, Write as _};

use anyhow::Context;
use bytes::Bytes;
use http_body_util::Full;
use hyper::Response;
use hyper::header::{HeaderMap, HeaderName, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};

/// What the bare server prints before its address.
pub(crate) const LISTENING: &str = "listening on ";

/// Options of `bare-hyper`.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Bytes of the answer's body
    #[arg(long, value_name = "BYTES", default_value_t = 300)]
    pub(crate) body_bytes: u32,
    /// A header to put into every answer beside Content-Length and Date; repeatable
    #[arg(long, value_name = "NAME:VALUE")]
    pub(crate) header: Vec<String>,
}

/// Serves until standard input closes. Prints its address first.
pub(crate) fn serve(options: &Options) -> anyhow::Result<()> {
    let headers = parse_headers(&options.header)?;
    let body = Bytes::from(vec![b'x'; usize::try_from(options.body_bytes)?]);
    std::thread::spawn(|| {
        // Whatever arrives is of no interest; the end of it is.
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        std::process::exit(0);
    });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.context("cannot listen on loopback")?;
        writeln!(std::io::stdout(), "{LISTENING}{}", listener.local_addr()?)?;
        loop {
            let (stream, _) = listener.accept().await.context("cannot accept a connection")?;
            stream.set_nodelay(true)?;
            tokio::spawn(answer(stream, headers.clone(), body.clone()));
        }
    })
}

async fn answer(stream: TcpStream, headers: HeaderMap, body: Bytes) {
    let service = service_fn(move |_request| {
        let mut response = Response::new(Full::new(body.clone()));
        response.headers_mut().clone_from(&headers);
        async move { Ok::<_, Infallible>(response) }
    });
    // A client that goes away is no fault of this server, and nobody reads what it might say about it.
    let _ = http1::Builder::new().pipeline_flush(true).serve_connection(TokioIo::new(stream), service).await;
}

fn parse_headers(lines: &[String]) -> anyhow::Result<HeaderMap> {
    let mut headers = HeaderMap::new();
    for line in lines {
        let (name, value) = line.split_once(':').with_context(|| format!("the header `{line}` has no colon"))?;
        let name: HeaderName = name.parse().with_context(|| format!("`{name}` is no header name"))?;
        let value = HeaderValue::from_str(value.trim()).with_context(|| format!("the value of {name} is not valid"))?;
        headers.append(name, value);
    }
    Ok(headers)
}
