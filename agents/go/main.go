package main

import (
	"context"
	"encoding/json"
	"errors"
	"log"
	"os"
	"os/signal"
	"strconv"
	"syscall"
	"time"
)

func echo(_ context.Context, task *Task) (any, error) {
	return map[string]json.RawMessage{"echo": task.Payload}, nil
}

func sleep(ctx context.Context, task *Task) (any, error) {
	var payload struct {
		MS int64 `json:"ms"`
	}
	if err := json.Unmarshal(task.Payload, &payload); err != nil {
		return nil, err
	}
	task.Progress(50, "half-way", nil)
	select {
	case <-time.After(time.Duration(payload.MS) * time.Millisecond):
		return map[string]int64{"slept_ms": payload.MS}, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func fail(_ context.Context, task *Task) (any, error) {
	var message string
	if err := json.Unmarshal(task.Payload, &message); err != nil {
		return nil, err
	}
	return nil, errors.New(message)
}

func main() {
	slots, _ := strconv.Atoi(env("CALLBOARD_SLOTS", "1"))
	agent := &Agent{
		ID:       env("CALLBOARD_AGENT_ID", "go-1"),
		Pool:     env("CALLBOARD_POOL", "default"),
		URL:      env("NATS_URL", "nats://127.0.0.1:4222"),
		Slots:    max(slots, 1),
		Handlers: map[string]Handler{"echo": echo, "sleep": sleep, "fail": fail},
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := agent.Run(ctx); err != nil {
		log.Fatal(err)
	}
}

func env(name, fallback string) string {
	if value := os.Getenv(name); value != "" {
		return value
	}
	return fallback
}
