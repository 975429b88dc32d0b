// Package clearance keeps the requests of one container: attempts that no rule allows, waiting for
// an operator's verdict (design §4).
//
// A Docket is pure but for the callbacks of its Config: it reads no network and no files, and its
// clock is a field. What it guarantees:
//
//   - There is at most one open request for each exact target (host, port, protocol), however many
//     attempts there are; Count is exact.
//   - Only what policy would ask about becomes a request (Config.Judge): the floor, the deny tier
//     and everything else that a rule decides is never shown to anybody.
//   - The first valid verdict wins. It names the request's id, its hash and its exact target; any
//     other is refused with an error of its own, and then nothing has changed. A verdict that
//     cannot be applied leaves the request open.
//   - A verdict grants or denies exactly what the request is about: host, port and protocol, and
//     with ChoiceDomain the names below it.
//   - Connections wait only while somebody can answer, and never longer than Config.Hold.
//   - A container cannot flood anybody: at most 10 new requests a minute and 40 open ones, the rest
//     is counted in one request of kind flood. It cannot keep a request open by itself for longer
//     than it goes on trying, and an expired request allows and denies nothing.
//
// What it does not do: it keeps nothing on disk. Verdicts are rules of the session tier, which the
// caller stores; after a restart of the worker the requests are built anew, under new ids, when
// their attempts recur.
package clearance
