//! The library's HTTP client, bounded: time limits on every request, few threads at once, and in simulator builds no way
//! to any host but the one that was given.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use async_trait::async_trait;
use tokio::sync::Semaphore;
use ureq::tls::{Certificate, RootCerts, TlsConfig};
use whatsapp_rust::http::{HttpClient, HttpRequest, HttpResponse, UreqHttpClient};
use whatsapp_rust::wacore::net::{StreamingHttpResponse, UploadBody};

/// Requests at once over all sessions: each one holds a thread of tokio's blocking pool.
const MAX_REQUESTS: usize = 32;
/// One whole exchange; a large video on a slow line fits.
const REQUEST_TIMEOUT: Duration = Duration::from_mins(5);
/// Resolving and connecting.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);

/// Which hosts may be asked.
#[derive(Clone, Debug)]
pub(super) enum Hosts {
    /// WhatsApp's own, as the library names them.
    Real,
    /// One base URL stands in for every host; `None` refuses all requests.
    StandIn(Option<Arc<str>>),
}

impl Hosts {
    fn rewrite(&self, url: &str) -> anyhow::Result<String> {
        let url = one_query(url);
        match self {
            Self::Real => Ok(url),
            Self::StandIn(None) => bail!("no stand-in for WhatsApp's media hosts is set"),
            Self::StandIn(Some(base)) => {
                let rest = url.split_once("://").map_or(url.as_str(), |(_scheme, rest)| rest);
                let path = rest.find(['/', '?']).map_or("", |at| &rest[at..]);
                let slash = if path.starts_with('/') { "" } else { "/" };
                Ok(format!("{}{slash}{path}", base.trim_end_matches('/')))
            }
        }
    }
}

/// The direct paths of files carry a query already; whatsapp-rust 0.7.0 (`wacore::download`) puts a second one behind it.
fn one_query(url: &str) -> String {
    match url.split_once('?') {
        Some((path, query)) => format!("{path}?{}", query.replace('?', "&")),
        None => url.to_owned(),
    }
}

/// One client for all sessions.
pub(super) struct BoundedHttp {
    inner: UreqHttpClient,
    hosts: Hosts,
    permits: Arc<Semaphore>,
}

impl BoundedHttp {
    /// `extra_root` is the PEM certificate that a stand-in is trusted by.
    pub(super) fn new(hosts: Hosts, extra_root: Option<&[u8]>) -> anyhow::Result<Self> {
        let roots =
            extra_root.map(|pem| Certificate::from_pem(pem).context("the extra TLS root is no PEM")).transpose()?;
        let tls = TlsConfig::builder();
        let tls = match roots {
            Some(root) => tls.root_certs(RootCerts::new_with_certs(&[root])),
            None => tls,
        };
        let agent = ureq::Agent::new_with_config(
            ureq::Agent::config_builder()
                .tls_config(tls.build())
                .timeout_global(Some(REQUEST_TIMEOUT))
                .timeout_connect(Some(CONNECT_TIMEOUT))
                // The library's own sizes (whatsapp-rust-ureq-http-client 0.7.0).
                .input_buffer_size(16 * 1024)
                .output_buffer_size(16 * 1024)
                .max_idle_connections(3)
                .max_idle_connections_per_host(2)
                .build(),
        );
        Ok(Self { inner: UreqHttpClient::with_agent(agent), hosts, permits: Arc::new(Semaphore::new(MAX_REQUESTS)) })
    }

    fn rewritten(&self, mut request: HttpRequest) -> anyhow::Result<HttpRequest> {
        request.url = self.hosts.rewrite(&request.url)?;
        Ok(request)
    }
}

#[async_trait]
impl HttpClient for BoundedHttp {
    async fn execute(&self, request: HttpRequest) -> anyhow::Result<HttpResponse> {
        let request = self.rewritten(request)?;
        let _permit = self.permits.acquire().await?;
        self.inner.execute(request).await
    }

    fn supports_streaming(&self) -> bool {
        true
    }

    fn execute_streaming(&self, request: HttpRequest) -> anyhow::Result<StreamingHttpResponse> {
        self.inner.execute_streaming(self.rewritten(request)?)
    }

    fn supports_upload_streaming(&self) -> bool {
        true
    }

    fn execute_upload(&self, request: HttpRequest, body: UploadBody, length: u64) -> anyhow::Result<HttpResponse> {
        self.inner.execute_upload(self.rewritten(request)?, body, length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stand_in_takes_every_host() {
        let hosts = Hosts::StandIn(Some("http://127.0.0.1:9/".into()));
        assert_eq!(hosts.rewrite("https://mmg.whatsapp.net/a/b?c=1").unwrap(), "http://127.0.0.1:9/a/b?c=1");
        assert_eq!(hosts.rewrite("https://web.whatsapp.com").unwrap(), "http://127.0.0.1:9/");
        assert_eq!(hosts.rewrite("https://a.example?b=/c").unwrap(), "http://127.0.0.1:9/?b=/c");
        assert_eq!(hosts.rewrite("https://a.example:8443/b?c=d%2Fe&f=").unwrap(), "http://127.0.0.1:9/b?c=d%2Fe&f=");
        assert_eq!(hosts.rewrite("https://[::1]:1/b").unwrap(), "http://127.0.0.1:9/b");
        let below = Hosts::StandIn(Some("http://127.0.0.1:9/media".into()));
        assert_eq!(below.rewrite("https://mmg.whatsapp.net/a").unwrap(), "http://127.0.0.1:9/media/a");
        assert!(Hosts::StandIn(None).rewrite("https://web.whatsapp.com/sw.js").is_err());
        assert_eq!(Hosts::Real.rewrite("https://a/b").unwrap(), "https://a/b");
    }

    #[test]
    fn a_second_query_becomes_part_of_the_first() {
        let rewritten = Hosts::Real.rewrite("https://a/v/t62/x.enc?ccb=11-4&oh=z?auth=A&token=T").unwrap();
        assert_eq!(rewritten, "https://a/v/t62/x.enc?ccb=11-4&oh=z&auth=A&token=T");
        assert_eq!(Hosts::Real.rewrite("https://a/x?auth=A").unwrap(), "https://a/x?auth=A");
    }
}
