//! Whole-system tests.

mod again;
mod architecture;
mod bad_input;
mod baseline;
mod batch;
mod callbacks;
mod clients;
mod collector;
mod console;
mod demo;
mod dreambench;
mod endings;
mod evaluate;
mod examples;
mod exposition;
mod gateway;
mod generate;
mod http_clients;
mod installation;
mod lost_products;
mod pages;
mod program;
mod retry;
mod store_calls;
mod unreadable;
mod watched;
