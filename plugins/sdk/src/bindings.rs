//! What wit-bindgen makes of the three worlds: types, imports, and the code behind the export macros.
//!
//! The worlds share `host` and `types`, so those of the first stand for all three. Verdicts and log
//! levels have no default, and verdicts are compared by hand in the module of their world.

/// The world `region-router`.
pub mod region_router {
    wit_bindgen::generate!({
        world: "region-router",
        path: "../wit",
        additional_derives: [PartialEq, Eq, Default],
        additional_derives_ignore: ["verdict", "level"],
        pub_export_macro: true,
    });
}

/// The world `preload-planner`.
pub mod preload_planner {
    wit_bindgen::generate!({
        world: "preload-planner",
        path: "../wit",
        with: {
            "skerry:policy/host@1.0.0": crate::bindings::region_router::skerry::policy::host,
            "skerry:policy/types@1.0.0": crate::bindings::region_router::skerry::policy::types,
        },
        additional_derives: [PartialEq, Eq, Default],
        additional_derives_ignore: ["verdict"],
        pub_export_macro: true,
    });
}

/// The world `super-peer-scheduler`.
pub mod super_peer_scheduler {
    wit_bindgen::generate!({
        world: "super-peer-scheduler",
        path: "../wit",
        with: {
            "skerry:policy/host@1.0.0": crate::bindings::region_router::skerry::policy::host,
            "skerry:policy/types@1.0.0": crate::bindings::region_router::skerry::policy::types,
        },
        additional_derives: [PartialEq, Eq, Default],
        additional_derives_ignore: ["verdict"],
        pub_export_macro: true,
    });
}
