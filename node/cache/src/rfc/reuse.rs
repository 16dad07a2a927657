//! May a stored response answer this request, now (RFC 9111 §4, §4.2.4, §5.2.1)?
//!
//! The origin's word binds, the client's is a wish, and the site's windows apply where the origin
//! named none. `s-maxage` forbids stale answers as `proxy-revalidate` does (§5.2.2.10), whatever
//! RFC 5861 windows stand beside it: an origin that wants both says `max-age`, or uses
//! `CDN-Cache-Control`. `immutable` (RFC 8246) needs nothing here: it speaks to caches that would
//! validate what is fresh.

use super::directives::{RequestDirectives, ResponseDirectives};
use super::freshness::Lifetime;

/// How long past its lifetime a response may be used where its origin says nothing, seconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Windows {
    /// While it is validated in the background (RFC 5861 §3).
    pub stale_while_revalidate: u64,
    /// When the origin fails (RFC 5861 §4).
    pub stale_if_error: u64,
}

/// What may be done with a stored response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reuse {
    /// Answer with it.
    Fresh {
        /// Seconds it stays fresh.
        ttl: i64,
    },
    /// Validate it first, unless one of these allows to answer with it.
    Stale {
        /// Seconds past its lifetime; 0 also when it is fresh but the client wants it validated.
        by: u64,
        /// Answer now and validate in the background.
        allowed_while_revalidate: bool,
        /// Answer when validation fails: no connection, no answer, or 500, 502, 503 or 504.
        allowed_if_error: bool,
        /// Answer now: the client accepts what is so stale (`max-stale`).
        allowed_by_client: bool,
    },
    /// Validate it first; when that fails, answer with an error.
    MustRevalidate,
}

/// Decides for one request.
///
/// `age` is the current age of the response in seconds. `only-if-cached` and `no-store` of the
/// request change nothing here: the caller turns the first into a 504 when it would have to ask
/// the origin, and the second only forbids storing.
pub fn reuse(
    request: &RequestDirectives,
    directives: &ResponseDirectives,
    lifetime: Lifetime,
    age: u64,
    defaults: &Windows,
) -> Reuse {
    if directives.no_cache {
        return Reuse::MustRevalidate;
    }
    let ttl = seconds(lifetime.seconds).saturating_sub(seconds(age));
    let wanted = !request.no_cache && is_young_enough(request, age);
    if ttl > 0 && wanted && request.min_fresh.is_none_or(|least| ttl >= seconds(least)) {
        return Reuse::Fresh { ttl };
    }
    let by = age.saturating_sub(lifetime.seconds);
    let forbidden =
        directives.must_revalidate || directives.proxy_revalidate || directives.s_maxage.is_some();
    if ttl <= 0 && forbidden {
        return Reuse::MustRevalidate;
    }
    let refresh = directives.stale_while_revalidate.unwrap_or(defaults.stale_while_revalidate);
    let error =
        directives.stale_if_error.unwrap_or(defaults.stale_if_error).max(request.stale_if_error.unwrap_or(0));
    // A client that bounds the age or asks for freshness to spare does not want anything stale.
    let takes_stale = wanted && request.max_age.is_none() && request.min_fresh.is_none();
    Reuse::Stale {
        by,
        allowed_while_revalidate: takes_stale && is_within(by, refresh),
        allowed_if_error: is_within(by, error),
        allowed_by_client: wanted
            && request.min_fresh.is_none()
            && request.max_stale.is_some_and(|most| most.is_none_or(|most| by <= most)),
    }
}

/// The request's `max-age`; 0 asks for validation even of what has just arrived, as browsers mean
/// it when they reload.
fn is_young_enough(request: &RequestDirectives, age: u64) -> bool {
    request.max_age.is_none_or(|most| most > 0 && age <= most)
}

fn is_within(by: u64, window: u64) -> bool {
    window > 0 && by <= window
}

fn seconds(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONE: Windows = Windows { stale_while_revalidate: 0, stale_if_error: 0 };
    const DAY: Windows = Windows { stale_while_revalidate: 86_400, stale_if_error: 86_400 };

    fn response(max_age: u64) -> ResponseDirectives {
        ResponseDirectives { max_age: Some(max_age), ..Default::default() }
    }

    fn decide(request: RequestDirectives, response: &ResponseDirectives, age: u64) -> Reuse {
        decide_with(request, response, age, &NONE)
    }

    fn decide_with(
        request: RequestDirectives,
        response: &ResponseDirectives,
        age: u64,
        windows: &Windows,
    ) -> Reuse {
        let seconds = response.s_maxage.or(response.max_age).unwrap_or(0);
        reuse(&request, response, Lifetime { seconds, heuristic: false }, age, windows)
    }

    fn stale(by: u64) -> Reuse {
        Reuse::Stale {
            by,
            allowed_while_revalidate: false,
            allowed_if_error: false,
            allowed_by_client: false,
        }
    }

    #[test]
    fn fresh_while_younger_than_the_lifetime() {
        let any = RequestDirectives::default();
        assert_eq!(decide(any, &response(10), 0), Reuse::Fresh { ttl: 10 });
        assert_eq!(decide(any, &response(10), 9), Reuse::Fresh { ttl: 1 });
        assert_eq!(decide(any, &response(10), 10), stale(0));
        assert_eq!(decide(any, &response(10), 12), stale(2));
        assert_eq!(decide(any, &response(0), 0), stale(0));
    }

    #[test]
    fn the_origin_forbids_stale_answers() {
        let any = RequestDirectives { max_stale: Some(None), ..Default::default() };
        let strict: [fn(&mut ResponseDirectives); 3] = [
            |response| response.must_revalidate = true,
            |response| response.proxy_revalidate = true,
            |response| response.s_maxage = Some(5),
        ];
        for forbid in strict {
            let mut directives = response(5);
            directives.stale_if_error = Some(60);
            forbid(&mut directives);
            assert_eq!(decide_with(any, &directives, 4, &DAY), Reuse::Fresh { ttl: 1 });
            assert_eq!(decide_with(any, &directives, 6, &DAY), Reuse::MustRevalidate);
        }
        let no_cache = ResponseDirectives { no_cache: true, ..response(5) };
        assert_eq!(decide_with(any, &no_cache, 1, &DAY), Reuse::MustRevalidate);
        let some_fields =
            ResponseDirectives { no_cache_fields: vec![http::header::SET_COOKIE], ..response(5) };
        assert_eq!(decide(any, &some_fields, 1), Reuse::Fresh { ttl: 4 });
    }

    #[test]
    fn the_windows_of_the_origin_come_before_those_of_the_site() {
        let any = RequestDirectives::default();
        let mut directives = response(1);
        directives.stale_while_revalidate = Some(4);
        directives.stale_if_error = Some(60);
        let allowed = |while_revalidate, if_error, by| Reuse::Stale {
            by,
            allowed_while_revalidate: while_revalidate,
            allowed_if_error: if_error,
            allowed_by_client: false,
        };
        assert_eq!(decide_with(any, &directives, 3, &DAY), allowed(true, true, 2));
        assert_eq!(decide_with(any, &directives, 6, &DAY), allowed(false, true, 5));
        assert_eq!(decide_with(any, &directives, 62, &DAY), allowed(false, false, 61));
        assert_eq!(decide_with(any, &response(1), 6, &DAY), allowed(true, true, 5));
        assert_eq!(decide_with(any, &response(1), 6, &NONE), stale(5));
        let asks = RequestDirectives { stale_if_error: Some(10), ..Default::default() };
        assert_eq!(decide(asks, &response(1), 6), allowed(false, true, 5));
    }

    #[test]
    fn the_client_may_want_something_younger() {
        let aged = |most| RequestDirectives { max_age: Some(most), ..Default::default() };
        assert_eq!(decide(aged(0), &response(3600), 0), stale(0));
        assert_eq!(decide(aged(1), &response(3600), 3), stale(0));
        assert_eq!(decide(aged(600), &response(3600), 1800), stale(0));
        assert_eq!(decide(aged(600), &response(3600), 600), Reuse::Fresh { ttl: 3000 });
        let fresh = |least| RequestDirectives { min_fresh: Some(least), ..Default::default() };
        assert_eq!(decide(fresh(2000), &response(1500), 0), stale(0));
        assert_eq!(decide(fresh(1000), &response(1500), 1000), stale(0));
        assert_eq!(decide(fresh(500), &response(1500), 1000), Reuse::Fresh { ttl: 500 });
        let checked = RequestDirectives { no_cache: true, ..Default::default() };
        assert_eq!(decide(checked, &response(3600), 0), stale(0));
    }

    #[test]
    fn a_wish_for_validation_leaves_the_error_window_open() {
        let checked = RequestDirectives { no_cache: true, ..Default::default() };
        let expected = Reuse::Stale {
            by: 0,
            allowed_while_revalidate: false,
            allowed_if_error: true,
            allowed_by_client: false,
        };
        assert_eq!(decide_with(checked, &response(3600), 0, &DAY), expected);
    }

    #[test]
    fn the_client_may_accept_something_older() {
        let by_client = |reuse| match reuse {
            Reuse::Stale { allowed_by_client, .. } => allowed_by_client,
            _ => panic!("{reuse:?}"),
        };
        let most = |most| RequestDirectives { max_stale: Some(most), ..Default::default() };
        assert!(by_client(decide(most(Some(1000)), &response(1500), 2000)));
        assert!(!by_client(decide(most(Some(100)), &response(1500), 2000)));
        assert!(by_client(decide(most(None), &response(1500), 1_000_000)));
        let bounded = RequestDirectives { max_age: Some(10), ..most(None) };
        assert!(!by_client(decide(bounded, &response(5), 20)));
        assert!(by_client(decide(bounded, &response(5), 10)));
    }

    #[test]
    fn huge_numbers_do_not_overflow() {
        let any = RequestDirectives::default();
        assert_eq!(decide(any, &response(5), u64::MAX), stale(u64::MAX - 5));
        assert_eq!(decide(any, &response(u64::MAX), 0), Reuse::Fresh { ttl: i64::MAX });
    }
}
