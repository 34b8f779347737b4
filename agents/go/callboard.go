// An agent of Callboard: it signs in, beats, takes offers, and repeats its reports until they are recorded.
// The contract is docs/protocol.md, section 3; nothing but a NATS client is needed to keep it.
package main

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"log"
	mathrand "math/rand/v2"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
)

const (
	reportTimeout = 5 * time.Second
	memory        = 30 * time.Second // longer than any offer is repeated
	lastWords     = time.Second
)

// A Task is one attempt of a task, as it was offered.
type Task struct {
	Epoch   int64           `json:"epoch"`
	TaskID  string          `json:"task_id"` // the key for idempotent side effects: a task may run more than once
	Attempt int64           `json:"attempt"`
	Type    string          `json:"type"`
	Payload json.RawMessage `json:"payload"`

	agent *Agent
}

// Progress tells how far the task is; data is any JSON value, or nil.
func (t *Task) Progress(percent float64, message string, data any) {
	body := map[string]any{"percent": percent, "message": message, "data": data}
	_ = t.agent.nc.Publish(t.agent.from("progress"), t.agent.report(t.ref(), body))
}

func (t *Task) ref() ref { return ref{t.TaskID, t.Attempt} }

// A Handler runs a task; its context ends when the task is cancelled. What it returns is the result.
type Handler func(ctx context.Context, task *Task) (any, error)

// ref is what fences: a task and one of its attempts.
type ref struct {
	TaskID  string `json:"task_id"`
	Attempt int64  `json:"attempt"`
}

type assignAnswer struct {
	Accepted bool   `json:"accepted"`
	Reason   string `json:"reason,omitempty"`
}

type remembered struct {
	answer assignAnswer
	until  time.Time
}

// pulse is what register and heartbeat are answered with.
type pulse struct {
	Epoch      int64 `json:"epoch"`
	IntervalMS int64 `json:"heartbeat_interval_ms"`
	LeaseMS    int64 `json:"lease_ms"`
	Cancel     []ref `json:"cancel"`
	Drain      bool  `json:"drain"`
}

// A wireError is an error answer (protocol, section 2).
type wireError struct {
	Code      string `json:"code"`
	Message   string `json:"message"`
	Retryable bool   `json:"retryable"`
}

func (e *wireError) Error() string { return e.Code + ": " + e.Message }

// An Agent is one incarnation of an agent of one pool.
type Agent struct {
	ID, Pool, URL string
	Slots         int
	Handlers      map[string]Handler

	nc          *nats.Conn
	incarnation string
	wake        chan struct{}

	mu         sync.Mutex
	registered bool
	leaseLost  bool
	drained    bool // by an operator
	leaving    bool // by ourselves or by an order to shut down
	leaveBy    time.Time
	epoch      int64
	seq        int64
	interval   time.Duration
	lease      time.Duration
	heard      time.Time
	alive      int                        // handlers: the slots in use
	held       map[ref]context.CancelFunc // every accepted attempt whose report is not answered
	recent     map[ref]remembered
}

// Run serves until ctx ends, then finishes what it runs and leaves; or until it is shut down or replaced.
func (a *Agent) Run(ctx context.Context) error {
	a.incarnation, a.wake = uuid(), make(chan struct{}, 1)
	a.interval, a.lease = 5*time.Second, 15*time.Second
	a.held, a.recent = map[ref]context.CancelFunc{}, map[ref]remembered{}
	nc, err := nats.Connect(a.URL,
		nats.Name("callboard agent "+a.ID),
		nats.CustomInboxPrefix("_INBOX."+a.ID), // the one inbox that an agent's user may listen to
		nats.RetryOnFailedConnect(true), nats.MaxReconnects(-1), nats.ReconnectWait(200*time.Millisecond),
		nats.ReconnectHandler(func(*nats.Conn) { a.hurry() }))
	if err != nil {
		return err
	}
	defer nc.Close()
	a.nc = nc
	if _, err := nc.Subscribe(fmt.Sprintf("callboard.v1.%s.to.%s.*", a.Pool, a.ID), a.onOrder); err != nil {
		return err
	}
	context.AfterFunc(ctx, func() { a.finish(time.Time{}) })
	for failures := 0; ; {
		if a.isDone() {
			_, _ = a.ask("leave", map[string]any{"incarnation": a.incarnation}, lastWords)
			return nil
		}
		pause, err := a.beat()
		var refusal *wireError
		switch {
		case errors.As(err, &refusal) && refusal.Code == "incarnation_replaced":
			return err
		case errors.As(err, &refusal) && !refusal.Retryable && !a.isRegistered():
			return err // it is refused for what it says of itself: repeating that does not help
		case err != nil:
			failures++
			pause = min(backoff(failures), a.interval)
			log.Printf("not answered: %v", err)
		default:
			failures = 0
		}
		select {
		case <-a.wake:
		case <-time.After(pause):
		}
	}
}

// beat registers or sends a heartbeat, and says how long to wait for the next.
func (a *Agent) beat() (time.Duration, error) {
	a.mu.Lock()
	if a.isLeaseOver() {
		a.leaseLost, a.registered = true, false
	}
	verb, timeout := "heartbeat", a.interval
	body := map[string]any{"incarnation": a.incarnation, "running": a.running(), "draining": a.leaving}
	if a.registered {
		a.seq++
		body["seq"] = a.seq
	} else {
		verb, timeout = "register", reportTimeout
		body["slots"], body["version"] = a.Slots, "1.0.0"
	}
	a.mu.Unlock()
	sent := time.Now()
	data, err := a.ask(verb, body, timeout)
	a.mu.Lock()
	defer a.mu.Unlock()
	var refusal *wireError
	if errors.As(err, &refusal) && refusal.Code == "unknown_incarnation" {
		a.registered = false
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	var answer pulse
	if err := json.Unmarshal(data, &answer); err != nil {
		return 0, err
	}
	if answer.Epoch < a.epoch && !(a.leaseLost && verb == "register") {
		return 0, errors.New("an owner that is no more")
	}
	a.epoch, a.drained, a.heard = answer.Epoch, answer.Drain, sent
	a.interval = time.Duration(max(answer.IntervalMS, 20)) * time.Millisecond
	a.lease = time.Duration(answer.LeaseMS) * time.Millisecond
	if verb == "register" {
		a.registered, a.leaseLost = true, false
	}
	for _, each := range answer.Cancel {
		a.cancel(each)
	}
	return time.Duration(float64(a.interval) * (0.8 + 0.4*mathrand.Float64())), nil
}

// isLeaseOver counts from the sending of the last request that was answered.
func (a *Agent) isLeaseOver() bool { return !a.heard.IsZero() && time.Since(a.heard) > a.lease }

// onOrder takes what the orchestrator asks on to.<agent_id>.<verb>.
func (a *Agent) onOrder(message *nats.Msg) {
	verb := message.Subject[strings.LastIndexByte(message.Subject, '.')+1:]
	var order struct {
		Task
		GraceMS int64 `json:"grace_ms"`
	}
	if err := json.Unmarshal(message.Data, &order); err != nil {
		if verb == "assign" {
			a.answer(message, assignAnswer{Reason: "invalid_request"})
		}
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if order.Epoch < a.epoch {
		return // of an owner that is no more
	}
	a.epoch = order.Epoch
	switch verb {
	case "assign":
		a.answer(message, a.decide(&order.Task))
		return
	case "cancel":
		a.cancel(order.ref())
	case "drain":
		a.drained = true
	case "shutdown":
		go a.finish(time.Now().Add(time.Duration(order.GraceMS) * time.Millisecond))
	default:
		return
	}
	a.answer(message, struct{}{})
}

// decide answers an offer; the same offer gets the same answer, and runs once.
func (a *Agent) decide(task *Task) assignAnswer {
	if _, ok := a.held[task.ref()]; ok {
		return assignAnswer{Accepted: true}
	}
	if known, ok := a.recent[task.ref()]; ok && time.Now().Before(known.until) {
		return known.answer
	}
	handler, supported := a.Handlers[task.Type]
	answer := assignAnswer{}
	switch {
	case a.leaving || a.drained:
		answer.Reason = "draining"
	case a.leaseLost || a.isLeaseOver():
		answer.Reason = "lease_lost"
	case !supported:
		answer.Reason = "unsupported"
	case a.alive >= a.Slots:
		answer.Reason = "busy"
	default:
		ctx, cancel := context.WithCancel(context.Background())
		a.alive++
		a.held[task.ref()] = cancel
		task.agent = a
		go a.run(ctx, task, handler)
		return assignAnswer{Accepted: true}
	}
	a.remember(task.ref(), answer)
	return answer
}

// run has a handler do the task, and reports what came of it unless nobody wants that any more.
func (a *Agent) run(ctx context.Context, task *Task, handler Handler) {
	result, err := call(ctx, task, handler)
	a.mu.Lock()
	a.alive--
	a.mu.Unlock()
	verb, body := "complete", map[string]any{"result": result}
	if err != nil {
		verb, body = "fail", map[string]any{"error": map[string]any{"message": err.Error()}}
	}
	for failures := 1; a.isHeld(task.ref()); failures++ {
		if a.isRegistered() {
			_, err := a.ask(verb, json.RawMessage(a.report(task.ref(), body)), reportTimeout)
			var refusal *wireError
			switch {
			case err == nil:
				a.settle(task.ref())
				return
			case errors.As(err, &refusal) && refusal.Code == "unknown_incarnation":
				a.forgotten()
			case errors.Is(err, nats.ErrMaxPayload),
				verb == "complete" && refusal != nil && (refusal.Code == "invalid_request" || refusal.Code == "payload_too_large"):
				refused := map[string]any{"type": "result_refused", "message": err.Error(), "retryable": false}
				verb, body, failures = "fail", map[string]any{"error": refused}, 0
				continue
			case refusal != nil && !refusal.Retryable:
				a.settle(task.ref())
				return
			}
		}
		time.Sleep(backoff(failures))
	}
}

// call turns a panic, and a result that is no JSON, into an error.
func call(ctx context.Context, task *Task, handler Handler) (result json.RawMessage, err error) {
	defer func() {
		if panicked := recover(); panicked != nil {
			err = fmt.Errorf("panic: %v", panicked)
		}
	}()
	value, err := handler(ctx, task)
	if err != nil {
		return nil, err
	}
	return json.Marshal(value)
}

// ask sends a request of this agent and returns the answer, or the error that it is.
func (a *Agent) ask(verb string, body any, timeout time.Duration) ([]byte, error) {
	data, err := json.Marshal(body)
	if err != nil {
		return nil, err
	}
	message, err := a.nc.Request(a.from(verb), data, timeout)
	if err != nil {
		return nil, err
	}
	if message.Header.Get("Nats-Service-Error-Code") == "" {
		return message.Data, nil
	}
	var failed struct {
		Error wireError `json:"error"`
	}
	if err := json.Unmarshal(message.Data, &failed); err != nil {
		return nil, err
	}
	return nil, &failed.Error
}

func (a *Agent) answer(message *nats.Msg, body any) {
	if data, err := json.Marshal(body); err == nil {
		_ = message.Respond(data)
	}
}

// report is the body of complete, fail and progress.
func (a *Agent) report(attempt ref, fields map[string]any) []byte {
	fields["task_id"], fields["attempt"], fields["incarnation"] = attempt.TaskID, attempt.Attempt, a.incarnation
	data, _ := json.Marshal(fields)
	return data
}

func (a *Agent) from(verb string) string {
	return fmt.Sprintf("callboard.v1.%s.agent.%s.%s", a.Pool, a.ID, verb)
}

// finish takes nothing new, and leaves when all is recorded, or at the given time if one is given.
func (a *Agent) finish(by time.Time) {
	a.mu.Lock()
	a.leaving = true
	if !by.IsZero() && (a.leaveBy.IsZero() || by.Before(a.leaveBy)) {
		a.leaveBy = by
		time.AfterFunc(time.Until(by), a.hurry)
	}
	a.mu.Unlock()
	a.hurry()
}

func (a *Agent) isDone() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.leaving && (len(a.held) == 0 || !a.leaveBy.IsZero() && !time.Now().Before(a.leaveBy))
}

// cancel stops an attempt, of which nothing more is said, and declines it should it be offered again.
func (a *Agent) cancel(attempt ref) {
	a.remember(attempt, assignAnswer{Reason: "cancelled"})
	if stop, ok := a.held[attempt]; ok {
		stop()
		delete(a.held, attempt)
		a.hurry()
	}
}

// settle forgets an attempt whose report is answered.
func (a *Agent) settle(attempt ref) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if stop, ok := a.held[attempt]; ok {
		stop()
		delete(a.held, attempt)
		a.remember(attempt, assignAnswer{Accepted: true})
	}
	if a.leaving {
		a.hurry()
	}
}

func (a *Agent) remember(attempt ref, answer assignAnswer) {
	now := time.Now()
	for each, known := range a.recent {
		if now.After(known.until) {
			delete(a.recent, each)
		}
	}
	a.recent[attempt] = remembered{answer, now.Add(max(a.lease, memory))}
}

func (a *Agent) running() []ref {
	refs := make([]ref, 0, len(a.held))
	for each := range a.held {
		refs = append(refs, each)
	}
	return refs
}

func (a *Agent) isHeld(attempt ref) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	_, ok := a.held[attempt]
	return ok
}

func (a *Agent) isRegistered() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.registered
}

// forgotten makes the next beat a registration.
func (a *Agent) forgotten() {
	a.mu.Lock()
	a.registered = false
	a.mu.Unlock()
	a.hurry()
}

// hurry makes the next beat come at once.
func (a *Agent) hurry() {
	select {
	case a.wake <- struct{}{}:
	default:
	}
}

// backoff doubles from 200 ms to 5 s, and is spread so that a fleet does not march in step.
func backoff(failures int) time.Duration {
	delay := min(200*time.Millisecond<<min(failures-1, 5), 5*time.Second)
	return time.Duration(float64(delay) * (0.5 + mathrand.Float64()))
}

func uuid() string {
	var b [16]byte
	_, _ = rand.Read(b[:])
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}
