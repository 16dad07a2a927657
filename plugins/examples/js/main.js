// Joins policy.js to the contract; there is nothing to change here.

import * as host from "skerry:policy/host@1.0.0";
import * as policy from "./policy.js";

// The node asks for the one of its world.
export const regionRouting = { route: decide("route") };
export const preloadPlanning = { plan: decide("plan") };
export const peerScheduling = { schedulePeers: decide("schedulePeers") };

/** Calls a function of the policy, and logs where it failed: the node sees only that it did. */
function decide(name) {
  return (request, rows) => {
    try {
      return policy[name](request, rows, host);
    } catch (error) {
      host.log("warn", `${error} ${error.stack ?? ""}`.replace(/\s+/g, " "));
      throw error;
    }
  };
}
