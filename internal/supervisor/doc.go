// Package supervisor is the network of one container: a hook that starts it and refuses a
// container that is not as its sandbox file says, a parent with the privileges to make the inside
// of the container's network namespace, and a worker that talks to everything hostile and has no
// privilege at all.
//
//	terok oci-hook createRuntime    run by the OCI runtime; waits until the worker serves
//	terok supervise                 the parent
//	terok supervise-worker          the worker
//
// What it guarantees:
//
//   - A container of ours runs only after links, table and listeners were made and read back and
//     a worker serves. Whatever fails before makes the hook fail, and so the start.
//   - The parent parses nothing that a container wrote. It has no capability left when the worker
//     starts, and what the worker can ask of it are single bytes.
//   - The worker gets descriptors, no path to a privilege: empty capability sets, no new
//     privileges, not dumpable, Landlock, a seccomp filter; it runs no program but git.
//   - Both end with the container's init; the worker ends with its parent. A worker that dies is
//     replaced within a second, and until then connections wait in the listeners' backlog.
//   - State on disk that cannot be read means quarantine.
//
// What it refuses: every OCI specification whose capabilities, seccomp profile, namespaces,
// links, guest mount, first process or container id are not those of the sandbox file.
package supervisor
