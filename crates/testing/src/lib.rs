//! Test support: seeded plans, virtual time and the launcher of the published SDKs.
