//! `agentwatch top` without a terminal and without a daemon: what its screens show, and what keys do.

mod fixed;
mod keys;
mod screens;
