package guest

import (
	"os"
	"os/signal"
	"syscall"
)

// idleMain keeps an interactive task's container alive between logins; the work happens in the
// tmux session that a login starts.
func idleMain() int {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT)
	<-signals
	return 0
}
