package text

import (
	"fmt"
	"time"
)

// Size writes a number of bytes for people, in powers of 1000: "0 B", "999 B", "1.2 kB",
// "212 kB", "3.4 GB". Negative numbers keep their sign.
func Size[N ~int | ~int64 | ~uint64 | ~uint | ~int32 | ~uint32](n N) string {
	if n < 0 {
		return "-" + size(uint64(-(n+1))+1) // the lowest number has no positive twin
	}
	return size(uint64(n))
}

func size(n uint64) string {
	if n < 1000 {
		return fmt.Sprintf("%d B", n)
	}
	v := float64(n)
	unit := -1
	for v >= 999.5 && unit < len(units)-1 {
		v /= 1000
		unit++
	}
	if v < 9.95 {
		return fmt.Sprintf("%.1f %cB", v, units[unit])
	}
	return fmt.Sprintf("%.0f %cB", v, units[unit])
}

const units = "kMGTPE"

// Duration writes a span of time for people, with at most two units: "0.4s", "12s", "3m12s",
// "2h05m", "3d04h". Negative spans count as zero.
func Duration(d time.Duration) string {
	d = max(d, 0)
	switch {
	case d < 9950*time.Millisecond:
		return fmt.Sprintf("%.1fs", d.Seconds())
	case d.Round(time.Second) < time.Minute:
		return fmt.Sprintf("%ds", d.Round(time.Second)/time.Second)
	case d.Round(time.Second) < time.Hour:
		s := d.Round(time.Second) / time.Second
		return fmt.Sprintf("%dm%02ds", s/60, s%60)
	case d.Round(time.Minute) < 24*time.Hour:
		m := d.Round(time.Minute) / time.Minute
		return fmt.Sprintf("%dh%02dm", m/60, m%60)
	}
	h := (d + 30*time.Minute) / time.Hour // a span near the end of the range must not wrap
	if d > 1<<63-1-30*time.Minute {
		h = d / time.Hour
	}
	return fmt.Sprintf("%dd%02dh", h/24, h%24)
}

// Count writes a number with three digits at most: 950, 1.2 k, 118 k, 3.4 M.
func Count(n int64) string {
	switch {
	case n < 1000:
		return fmt.Sprint(n)
	case n < 9950:
		return fmt.Sprintf("%.1f k", float64(n)/1e3)
	case n < 999_500:
		return fmt.Sprintf("%.0f k", float64(n)/1e3)
	case n < 9_950_000:
		return fmt.Sprintf("%.1f M", float64(n)/1e6)
	}
	return fmt.Sprintf("%.0f M", float64(n)/1e6)
}
