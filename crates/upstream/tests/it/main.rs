//! The client against good and bad mirrors, rsync against a real daemon and false ones.

mod fetch;
mod http;
mod listing;
mod mirror;
mod rsync;
mod rsync_words;
