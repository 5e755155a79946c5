package contract

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"
)

// Wrong is a response that is complete and not right.
type Wrong string

func (w Wrong) Error() string { return string(w) }

// Tally is how a client's requests went; it says "warm" when the drain may begin, and knows when to stop.
type Tally struct {
	// Stop is closed when no new request may begin.
	Stop chan struct{}
	// Reconnects is asked at the end.
	Reconnects func() int

	args   Client
	mutex  sync.Mutex
	enough bool
	line   summary
}

type summary struct {
	Responses  int      `json:"responses"`
	Bad        []string `json:"bad"`
	BadCount   int      `json:"bad_count"`
	Errors     []string `json:"errors"`
	ErrorCount int      `json:"error_count"`
	Reconnects int      `json:"reconnects"`
	Posts      posts    `json:"posts"`
}

type posts struct {
	Sent     int `json:"sent"`
	Answered int `json:"answered"`
}

// Run is a whole client: `work` is one round of the mix of a worker, and `slow` the slow response, which
// calls what it is given when its first bytes are there.
func Run(args Client, tally *Tally, work func(worker, turn int), slow func(begun func())) {
	tally.args, tally.Stop = args, make(chan struct{})
	tally.line.Bad, tally.line.Errors = []string{}, []string{}
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT)
	go func() {
		<-signals
		close(tally.Stop)
	}()
	var workers sync.WaitGroup
	for index := 0; index < args.Connections; index++ {
		workers.Add(1)
		go func(index int) {
			defer workers.Done()
			tally.run(index, work, slow)
		}(index)
	}
	ended := make(chan struct{})
	go func() {
		workers.Wait()
		close(ended)
	}()
	<-tally.Stop
	select {
	case <-ended:
	case <-time.After(15 * time.Second):
		tally.Judge("stop", errors.New("a request did not end"))
	}
	tally.mutex.Lock()
	defer tally.mutex.Unlock()
	if tally.Reconnects != nil {
		tally.line.Reconnects = tally.Reconnects()
	}
	text, _ := json.Marshal(tally.line)
	fmt.Println(string(text))
}

func (t *Tally) run(index int, work func(worker, turn int), slow func(begun func())) {
	slowWaits := index == 0 && slow != nil
	for turn := 0; !t.stopped(); turn++ {
		if slowWaits && t.isWarm() {
			slowWaits = false
			slow(func() { fmt.Println("warm") })
		}
		work(index, turn)
		if index == t.args.Connections-1 && index > 0 {
			t.pause(1500 * time.Millisecond)
		} else if index > 0 && t.isWarm() {
			t.pause(2 * time.Millisecond)
		}
	}
}

func (t *Tally) stopped() bool {
	select {
	case <-t.Stop:
		return true
	default:
		return false
	}
}

func (t *Tally) pause(length time.Duration) {
	select {
	case <-t.Stop:
	case <-time.After(length):
	}
}

func (t *Tally) isWarm() bool {
	t.mutex.Lock()
	defer t.mutex.Unlock()
	return t.enough
}

// Judge notes how a request ended; true if it was right.
func (t *Tally) Judge(what string, err error) bool {
	t.mutex.Lock()
	defer t.mutex.Unlock()
	if err == nil {
		t.line.Responses++
		if t.line.Responses == t.args.Warm {
			t.enough = true
			if !t.args.Kinds["slow"] {
				fmt.Println("warm")
			}
		}
		return true
	}
	text := fmt.Sprintf("%s: %T: %v", what, err, err)
	var wrong Wrong
	if errors.As(err, &wrong) {
		t.line.BadCount++
		t.line.Bad = append(t.line.Bad, text)[:first(len(t.line.Bad)+1)]
	} else {
		t.line.ErrorCount++
		t.line.Errors = append(t.line.Errors, text)[:first(len(t.line.Errors)+1)]
	}
	return false
}

func first(count int) int {
	if count > 5 {
		return 5
	}
	return count
}

// Sent is a new id for a request with a side effect.
func (t *Tally) Sent() string {
	t.mutex.Lock()
	defer t.mutex.Unlock()
	t.line.Posts.Sent++
	return fmt.Sprintf("%d-%d", os.Getpid(), t.line.Posts.Sent)
}

// Answered notes that such a request was answered.
func (t *Tally) Answered() {
	t.mutex.Lock()
	defer t.mutex.Unlock()
	t.line.Posts.Answered++
}
