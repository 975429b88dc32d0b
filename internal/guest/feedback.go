package guest

import (
	"fmt"
	"io"
	"os"

	"terok/internal/text"
)

// maxFeedback bounds what reviewers said, in bytes.
const maxFeedback = 4 << 20

// feedbackMain replaces a file, of what reviewers said or of how far the task is from open reviews,
// by what stands on in: whole, so that an agent that reads it never sees half of it. It is run by
// podman exec, for a person.
func feedbackMain(in io.Reader, path string) int {
	data, err := io.ReadAll(io.LimitReader(in, maxFeedback))
	if err == nil {
		err = replaceFile(path, data, 0o600)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "terok:", text.Line(err.Error(), 300))
		return exitPrepare
	}
	return 0
}
