//! Decides who may use the server: not pages of other origins in somebody's browser and, if there is a token, only
//! clients that have it.

use std::net::IpAddr;

use axum::http::uri::Authority;
use axum::http::{HeaderMap, Method, StatusCode, header};
use sha2::{Digest, Sha256};

use crate::serve::problem::Problem;

/// The checks that every request must pass.
pub(super) struct Guard {
    /// The host names of a loopback server. A name that an attacker points at this address (DNS rebinding) is not among
    /// them.
    hosts: Option<Vec<String>>,
    /// The token's digest: the time that comparing digests takes reveals nothing about the token.
    token: Option<[u8; 32]>,
    /// The name of the cookie that keeps the token in a browser. It contains the port, since browsers share cookies
    /// between ports.
    cookie: String,
}

/// Why a text cannot be a token, which must fit into an address, a header and a cookie.
pub(super) fn problem_of_token(token: &str) -> Option<&'static str> {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    if token.is_empty() {
        Some("the token is empty: give one that nobody can guess")
    } else if !token.bytes().all(is_plain) {
        Some("a token may contain only letters, digits, '-', '.', '_' and '~'")
    } else {
        None
    }
}

impl Guard {
    /// The guard of a server at this address.
    pub fn new(host: IpAddr, port: u16, token: Option<&str>) -> Guard {
        let name = if host.is_ipv6() { format!("[{host}]") } else { host.to_string() };
        let hosts = host.is_loopback().then(|| {
            let names = ["localhost".to_owned(), "127.0.0.1".to_owned(), "[::1]".to_owned(), name];
            let without_port = names.iter().filter(|_| port == 80).cloned();
            names.iter().map(|name| format!("{name}:{port}")).chain(without_port).collect()
        });
        let cookie = format!("vqa_token_{port}");
        Guard { hosts, token: token.map(|token| Sha256::digest(token).into()), cookie }
    }

    /// Whether a text is the token.
    pub fn is_token(&self, text: &str) -> bool {
        self.token.is_some_and(|token| Sha256::digest(text)[..] == token)
    }

    /// The `Set-Cookie` header that keeps the token.
    pub fn cookie(&self, token: &str) -> String {
        format!("{}={token}; HttpOnly; SameSite=Strict; Path=/", self.cookie)
    }

    /// Checks that a request names this server as its host, and does not come from a page of another origin.
    pub fn check_origin(&self, method: &Method, headers: &HeaderMap) -> Result<(), Problem> {
        let forbidden = |message: &str| Err(Problem::new(StatusCode::FORBIDDEN, message));
        let mut all_hosts = headers.get_all(header::HOST).iter();
        let (Some(host), None) = (all_hosts.next(), all_hosts.next()) else {
            return Err(Problem::malformed("exactly one Host header is required"));
        };
        let Some(host) = host.to_str().ok().filter(|host| host.parse::<Authority>().is_ok()) else {
            return Err(Problem::malformed("the Host header is not a valid host"));
        };
        if self.hosts.as_ref().is_some_and(|hosts| !hosts.iter().any(|own| own.eq_ignore_ascii_case(host))) {
            return forbidden("the Host header names another server: use the address that vqa serve printed");
        }
        if let Some(origin) = headers.get(header::ORIGIN) {
            let own = origin.to_str().ok().and_then(|origin| origin.split_once("://")).map(|(_, own)| own);
            if !own.is_some_and(|own| own.eq_ignore_ascii_case(host)) {
                return forbidden("a page from another origin may not use this server");
            }
        }
        // Browsers mark requests made by pages of other sites even when they send no Origin.
        let site = headers.get("sec-fetch-site").map(|site| site.as_bytes());
        let is_navigation = method == Method::GET
            && headers.get("sec-fetch-mode").is_some_and(|mode| mode == "navigate")
            && headers.get("sec-fetch-dest").is_some_and(|dest| dest == "document");
        if matches!(site, Some(b"cross-site" | b"same-site")) && !is_navigation {
            return forbidden("a page from another origin may not use this server");
        }
        Ok(())
    }

    /// Checks that a request has the token, if one is set.
    pub fn check_token(&self, headers: &HeaderMap) -> Result<(), Problem> {
        if self.token.is_none() {
            return Ok(());
        }
        let bearer = headers.get(header::AUTHORIZATION).and_then(|value| {
            let (scheme, token) = value.to_str().ok()?.split_once(' ')?;
            scheme.eq_ignore_ascii_case("bearer").then_some(token)
        });
        let cookies = headers.get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok());
        let mut kept = cookies.flat_map(|cookies| cookies.split(';')).filter_map(|cookie| {
            let (name, value) = cookie.trim().split_once('=')?;
            (name == self.cookie).then_some(value)
        });
        if bearer.is_some_and(|token| self.is_token(token)) || kept.any(|token| self.is_token(token)) {
            return Ok(());
        }
        let message = "a token is required: open the address that vqa serve printed, or send \
            \"Authorization: Bearer TOKEN\"";
        Err(Problem::new(StatusCode::UNAUTHORIZED, message))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(given: &[(&str, &str)]) -> HeaderMap {
        given
            .iter()
            .map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()))
            .collect::<Vec<_>>()
            .into_iter()
            .fold(HeaderMap::new(), |mut headers, (name, value): (header::HeaderName, header::HeaderValue)| {
                headers.append(name, value);
                headers
            })
    }

    #[test]
    fn another_name_for_this_address_is_refused() {
        let guard = Guard::new("127.0.0.1".parse().unwrap(), 8765, None);
        let status = |given: &[(&str, &str)]| {
            guard.check_origin(&Method::POST, &headers(given)).map_err(|problem| problem.status.as_u16())
        };
        for host in ["localhost:8765", "127.0.0.1:8765", "LOCALHOST:8765", "[::1]:8765"] {
            assert_eq!(status(&[("host", host)]), Ok(()), "{host}");
        }
        for host in ["evil.example:8765", "localhost", "localhost:80", "127.0.0.1.evil.example:8765"] {
            assert_eq!(status(&[("host", host)]), Err(403), "{host}");
        }
        assert_eq!(status(&[]), Err(400));
        assert_eq!(status(&[("host", "a b")]), Err(400));
        assert_eq!(status(&[("host", "localhost:8765"), ("host", "localhost:8765")]), Err(400));
    }

    #[test]
    fn a_page_from_elsewhere_is_refused() {
        let guard = Guard::new("127.0.0.1".parse().unwrap(), 8765, None);
        let status = |method: Method, given: &[(&str, &str)]| {
            let host = [("host", "localhost:8765")];
            let problem = guard.check_origin(&method, &headers(&[&host, given].concat()));
            problem.map_err(|problem| problem.status.as_u16())
        };
        assert_eq!(status(Method::POST, &[("origin", "http://localhost:8765")]), Ok(()));
        for origin in ["http://evil.example", "null", "http://localhost:8766", "http://localhost"] {
            assert_eq!(status(Method::POST, &[("origin", origin)]), Err(403), "{origin}");
        }
        assert_eq!(status(Method::GET, &[("sec-fetch-site", "cross-site")]), Err(403));
        assert_eq!(status(Method::GET, &[("sec-fetch-site", "same-origin")]), Ok(()));
        // A link from elsewhere to the page may be followed.
        let link = [("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "navigate"), ("sec-fetch-dest", "document")];
        assert_eq!(status(Method::GET, &link), Ok(()));
        assert_eq!(status(Method::POST, &link), Err(403));
    }

    #[test]
    fn a_token_is_wanted_where_there_is_one() {
        let guard = Guard::new("0.0.0.0".parse().unwrap(), 80, Some("secret"));
        let is_let_in = |given: &[(&str, &str)]| guard.check_token(&headers(given)).is_ok();
        assert!(is_let_in(&[("authorization", "Bearer secret")]));
        assert!(is_let_in(&[("authorization", "bearer secret")]));
        assert!(is_let_in(&[("cookie", "a=b; vqa_token_80=secret")]));
        for given in [("authorization", "Bearer secre"), ("authorization", "secret"), ("cookie", "vqa_token_81=secret")]
        {
            assert!(!is_let_in(&[given]), "{given:?}");
        }
        assert!(!is_let_in(&[]));
        assert!(Guard::new("127.0.0.1".parse().unwrap(), 80, None).check_token(&headers(&[])).is_ok());
        for odd in ["", "a b", "a;b", "a%62", "é", "a\n", "a#b", "\u{1b}[31m"] {
            assert!(problem_of_token(odd).is_some(), "{odd:?}");
        }
        assert_eq!(problem_of_token("aZ09-._~"), None);
        // Any host name will do here: the address is not a loopback one, so there is a token, and its cookie belongs to
        // one name.
        assert!(guard.check_origin(&Method::GET, &headers(&[("host", "vqa.example")])).is_ok());
    }
}
