package control

import (
	"testing"
	"time"

	"terok/internal/audit"
)

func published(f *Feed, ids ...string) (last uint64) {
	for _, id := range ids {
		last = f.Publish(StreamItem{Request: &Request{ID: id}})
	}
	return last
}

// TestFeedReplay: who comes back gets what it missed, of each request only the last state; who was
// away too long, or saw another worker's stream, is told to begin anew.
func TestFeedReplay(t *testing.T) {
	now := time.Now()
	f := NewFeed(now)
	defer f.Close()
	first := published(f, "r1")
	published(f, "r1", "r2")
	f.Publish(StreamItem{Event: &audit.Event{Ev: "flow_denied"}})
	last := published(f, "r1")
	items, seq, replayed, stop := f.Subscribe(first)
	if seq != last || !replayed {
		t.Errorf("%d, %t; want %d", seq, replayed, last)
	}
	var got []StreamItem
	for range 3 {
		got = append(got, <-items)
	}
	if got[0].Request.ID != "r2" || got[1].Event == nil || got[2].Request.ID != "r1" || got[2].Seq != last || got[2].Request.Seq != last {
		t.Errorf("%+v", got)
	}
	if published(f, "r3"); (<-items).Request.ID != "r3" {
		t.Error("the stream does not go on")
	}
	stop()
	for range items { // closed
	}
	for name, since := range map[string]uint64{"nothing": 0, "the future": last + 100, "an earlier worker": uint64(now.Add(-time.Hour).UnixMicro())} {
		if _, _, replayed, stop := f.Subscribe(since); replayed {
			t.Errorf("%s: replayed", name)
		} else {
			stop()
		}
	}
	for range replayLength {
		published(f, "x")
	}
	if _, _, replayed, stop := f.Subscribe(last); replayed {
		t.Error("more than the ring holds was replayed")
	} else {
		stop()
	}
}

// TestFeedSlowReader: it loses its oldest elements and is told how many; nobody waits for it.
func TestFeedSlowReader(t *testing.T) {
	f := NewFeed(time.Now())
	slow, _, _, stop := f.Subscribe(0)
	defer stop()
	const n = 1000
	var last uint64
	for range n {
		last = f.Publish(StreamItem{Event: &audit.Event{Ev: "x"}})
	}
	seen, lost := uint64(0), uint64(0)
	for i := range slow {
		if lost += i.Gap; i.Gap == 0 {
			seen++
		}
		if i.Seq == last {
			break
		}
	}
	if seen+lost != n || lost < n-maxWaiting-2 {
		t.Errorf("%d seen, %d lost, %d published", seen, lost, n)
	}
	f.Close()
	if _, ok := <-slow; ok {
		t.Error("an element after Close")
	}
	after, _, _, stop2 := f.Subscribe(0)
	defer stop2()
	if _, ok := <-after; ok {
		t.Error("a closed feed has a reader")
	}
	f.Publish(StreamItem{Gap: 1}) // no one is there
}
