package terok

import (
	"net"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

// SessionBus is the address of the operator's session bus, "" when there is none.
func (a *App) SessionBus() string {
	if addr := a.Environ("DBUS_SESSION_BUS_ADDRESS"); addr != "" {
		return addr
	}
	path := filepath.Join(filepath.Dir(a.Roots.Runtime), "bus") // systemd's user bus
	if fi, err := os.Stat(path); err == nil && fi.Mode().Type() == os.ModeSocket {
		return "unix:path=" + path
	}
	return ""
}

// desktop reports whether the operator sits in front of a screen that this process belongs to:
// not in an ssh session, even one that forwards X, not on a host without a display.
func (a *App) desktop() bool {
	for _, v := range []string{"SSH_CONNECTION", "SSH_CLIENT", "SSH_TTY"} {
		if a.Environ(v) != "" {
			return false
		}
	}
	return (a.Environ("DISPLAY") != "" || a.Environ("WAYLAND_DISPLAY") != "") && a.SessionBus() != ""
}

// startNotifier makes sure that the session has a notifier, where it can have one. Whatever goes
// wrong here is no reason not to run a task: requests are in every terminal too.
func (a *App) startNotifier() {
	if a.Self == "" || !a.desktop() || a.notifierRuns() {
		return
	}
	a.startAside([]string{"DBUS_SESSION_BUS_ADDRESS=" + a.SessionBus()}, "notify")
}

// startAside starts this program as a process that outlives the command, with nothing of its
// terminal and little of its environment. Whatever goes wrong is not the command's failure.
func (a *App) startAside(env []string, args ...string) {
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return
	}
	defer null.Close()
	env = append(env, "PATH=/usr/bin:/bin")
	for _, v := range []string{"HOME", "USER", "LANG", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_RUNTIME_DIR"} {
		if s := a.Environ(v); s != "" {
			env = append(env, v+"="+s)
		}
	}
	p, err := os.StartProcess(a.Self, append([]string{"terok"}, args...), &os.ProcAttr{
		Dir: "/", Env: env, Files: []*os.File{null, null, null}, Sys: &syscall.SysProcAttr{Setsid: true}})
	if err == nil {
		_ = p.Release() // it is init's child once we end
	}
}

func (a *App) notifierRuns() bool {
	c, err := net.DialTimeout("unix", a.Roots.NotifySocket(), time.Second)
	if err != nil {
		return false
	}
	c.Close()
	return true
}
