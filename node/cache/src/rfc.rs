//! What HTTP says a shared cache may do, as pure functions.
//!
//! The rooms of this folder read header fields and answer questions: may this response be stored
//! ([`storable`]), under which key ([`vary`]), for how long is it fresh ([`freshness`]), may it
//! answer this request now ([`reuse`]), or is a 304, a 412 or a part of it the right answer
//! ([`conditional`], [`range`]), and what becomes of it when the origin speaks again ([`fields`],
//! [`digest`], [`invalidation`]). Nothing here opens a socket, reads a clock or keeps state: times come in as
//! seconds since the Unix epoch, bytes as [`http::HeaderMap`]. The engine owns the objects and does
//! the asking. Sources: RFC 9110, RFC 9111, RFC 5861, RFC 8246, RFC 9211 and RFC 9213, named with
//! their sections where they decide something.

pub mod cache_status;
pub mod conditional;
pub mod content_range;
pub mod date;
pub mod digest;
pub mod directives;
pub mod fields;
pub mod freshness;
pub mod invalidation;
mod list;
pub mod range;
pub mod reuse;
pub mod storable;
pub mod targeted;
pub mod vary;
