// Package dns is the container's resolver: it answers each name with an address of its own, so
// that the proxy knows the exact name of every connection, and lets no name out of the container
// that policy does not allow.
//
// What it guarantees:
//
//   - Nothing about a name goes upstream unless policy.Name calls it Listed, and then only a query
//     made anew here: lower case, one of a few types, no option or bit of the container's message.
//   - A answers carry synthetic addresses only ([Table]); no address hint, ECH key or foreign
//     address reaches the container. What a name really resolves to is looked up at dial time on
//     the host ([Lookup]) and judged there by policy.CheckDial.
//   - Upstream's NXDOMAIN, NODATA and SERVFAIL stay what they are for allowed names.
//   - Rates, names, connections, upstream queries and ledger lines are bounded; counters are exact.
//
// It refuses zone transfers, unknown types and classes, names with bytes outside of [a-z0-9_-],
// and everything while the policy is in quarantine.
//
// The parts: Table (name ↔ synthetic address), Resolver (the container's side), Lookup (the host's
// side, used by Resolver and proxy), SystemUpstream (the host's own resolvers).
package dns
