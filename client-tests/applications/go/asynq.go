package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hibiken/asynq"
)

var asynqSteps = []step{
	{"tasks are processed", tasksAreProcessed},
	{"tasks wait for their time", tasksWaitForTheirTime},
	{"tasks are tried again", tasksAreTriedAgain},
	{"tasks are unique", tasksAreUnique},
	{"queues have priorities", queuesHavePriorities},
	{"tasks are aggregated", tasksAreAggregated},
	{"a scheduler enqueues", aSchedulerEnqueues},
	{"tasks are cancelled and deleted", tasksAreCancelledAndDeleted},
}

// A desk has what an application needs, and the texts of the tasks that were processed.
type desk struct {
	options   asynq.RedisClientOpt
	client    *asynq.Client
	inspector *asynq.Inspector
	lock      sync.Mutex
	seen      []string
}

func open() *desk {
	options := asynq.RedisClientOpt{Addr: address}
	return &desk{options: options, client: asynq.NewClient(options), inspector: asynq.NewInspector(options)}
}

func (d *desk) close() {
	must(d.client.Close())
	must(d.inspector.Close())
}

func (d *desk) note(task *asynq.Task) {
	d.lock.Lock()
	defer d.lock.Unlock()
	d.seen = append(d.seen, string(task.Payload()))
}

func (d *desk) done() []string {
	d.lock.Lock()
	defer d.lock.Unlock()
	return slices.Clone(d.seen)
}

func (d *desk) waitFor(count int) {
	until(fmt.Sprint(count, " tasks are done"), func() bool { return len(d.done()) >= count })
}

// serve starts a server, and returns its end.
func (d *desk) serve(config asynq.Config, handler func(context.Context, *asynq.Task) error) func() {
	config.LogLevel = asynq.ErrorLevel
	config.DelayedTaskCheckInterval = 50 * time.Millisecond
	config.TaskCheckInterval = 20 * time.Millisecond
	config.RetryDelayFunc = func(int, error, *asynq.Task) time.Duration { return 20 * time.Millisecond }
	if config.Concurrency == 0 {
		config.Concurrency = 4
	}
	server := asynq.NewServer(d.options, config)
	must(server.Start(asynq.HandlerFunc(handler)))
	return server.Shutdown
}

func (d *desk) enqueue(text string, options ...asynq.Option) *asynq.TaskInfo {
	return value(d.client.Enqueue(asynq.NewTask("paint", []byte(text)), options...))
}

func tasksAreProcessed() {
	d := open()
	defer d.close()
	for n := range 10 {
		d.enqueue(fmt.Sprint(n), asynq.Retention(time.Hour), asynq.TaskID(fmt.Sprint("task", n)))
	}
	sleep()
	gate := make(chan struct{})
	defer d.serve(asynq.Config{}, func(_ context.Context, task *asynq.Task) error {
		if string(task.Payload()) == "5" {
			<-gate
		}
		_, err := task.ResultWriter().Write([]byte("painted " + string(task.Payload())))
		d.note(task)
		return err
	})()
	d.waitFor(9)
	sleep()
	close(gate)
	d.waitFor(10)
	until("all are completed", func() bool {
		return value(d.inspector.GetQueueInfo("default")).Completed == 10
	})
	sleep()
	for n := range 10 {
		info := value(d.inspector.GetTaskInfo("default", fmt.Sprint("task", n)))
		equal("result", string(info.Result), fmt.Sprint("painted ", n))
		equal("state", info.State, asynq.TaskStateCompleted)
	}
}

func tasksWaitForTheirTime() {
	d := open()
	defer d.close()
	start := time.Now()
	d.enqueue("soon", asynq.ProcessIn(time.Second))
	d.enqueue("late", asynq.ProcessAt(start.Add(2*time.Second)))
	d.enqueue("never", asynq.ProcessIn(time.Hour), asynq.TaskID("never"))
	sleep()
	equal("scheduled", value(d.inspector.GetQueueInfo("default")).Scheduled, 3)
	defer d.serve(asynq.Config{}, func(_ context.Context, task *asynq.Task) error {
		d.note(task)
		return nil
	})()
	d.waitFor(1)
	sleep()
	d.waitFor(2)
	// Times count in whole seconds.
	if early := time.Since(start); early < time.Second {
		panic(fmt.Sprint("too early: ", early))
	}
	must(d.inspector.RunTask("default", "never"))
	d.waitFor(3)
	equal("order", strings.Join(d.done(), " "), "soon late never")
}

func tasksAreTriedAgain() {
	d := open()
	defer d.close()
	tries := 0
	d.enqueue("flaky", asynq.MaxRetry(3))
	d.enqueue("hopeless", asynq.MaxRetry(0), asynq.TaskID("hopeless"))
	defer d.serve(asynq.Config{Concurrency: 1}, func(_ context.Context, task *asynq.Task) error {
		if string(task.Payload()) == "hopeless" {
			return errors.New("no")
		}
		if tries++; tries == 2 {
			sleep()
		}
		if tries < 3 {
			return fmt.Errorf("try %d", tries)
		}
		d.note(task)
		return nil
	})()
	d.waitFor(1)
	sleep()
	until("one is archived", func() bool { return value(d.inspector.GetQueueInfo("default")).Archived == 1 })
	equal("error", value(d.inspector.GetTaskInfo("default", "hopeless")).LastErr, "no")
}

func tasksAreUnique() {
	d := open()
	defer d.close()
	task := asynq.NewTask("report", []byte("daily"))
	value(d.client.Enqueue(task, asynq.Unique(time.Hour)))
	sleep()
	if _, err := d.client.Enqueue(task, asynq.Unique(time.Hour)); !errors.Is(err, asynq.ErrDuplicateTask) {
		panic(err)
	}
	d.enqueue("a", asynq.TaskID("fixed"))
	sleep()
	if _, err := d.client.Enqueue(task, asynq.TaskID("fixed")); !errors.Is(err, asynq.ErrTaskIDConflict) {
		panic(err)
	}
}

func queuesHavePriorities() {
	d := open()
	defer d.close()
	for _, queue := range []string{"low", "high", "low", "middle", "high"} {
		d.enqueue(queue, asynq.Queue(queue))
	}
	sleep()
	must(d.inspector.PauseQueue("middle"))
	config := asynq.Config{
		Concurrency: 1, StrictPriority: true, Queues: map[string]int{"high": 6, "middle": 3, "low": 1},
	}
	defer d.serve(config, func(_ context.Context, task *asynq.Task) error {
		d.note(task)
		return nil
	})()
	d.waitFor(4)
	sleep()
	must(d.inspector.UnpauseQueue("middle"))
	d.waitFor(5)
	equal("order", strings.Join(d.done(), " "), "high high low low middle")
}

func tasksAreAggregated() {
	d := open()
	defer d.close()
	for n := range 5 {
		d.enqueue(fmt.Sprint(n), asynq.Group("walls"))
	}
	sleep()
	join := func(group string, tasks []*asynq.Task) *asynq.Task {
		var texts []string
		for _, task := range tasks {
			texts = append(texts, string(task.Payload()))
		}
		// Those of one second have no order.
		slices.Sort(texts)
		return asynq.NewTask("joined", []byte(group+" "+strings.Join(texts, " ")))
	}
	config := asynq.Config{GroupAggregator: asynq.GroupAggregatorFunc(join), GroupMaxSize: 5, GroupGracePeriod: time.Second}
	defer d.serve(config, func(_ context.Context, task *asynq.Task) error {
		d.note(task)
		return nil
	})()
	d.waitFor(1)
	equal("joined", d.done()[0], "walls 0 1 2 3 4")
}

func aSchedulerEnqueues() {
	d := open()
	defer d.close()
	scheduler := asynq.NewScheduler(d.options, &asynq.SchedulerOpts{LogLevel: asynq.ErrorLevel})
	value(scheduler.Register("@every 1s", asynq.NewTask("tick", []byte("tick"))))
	must(scheduler.Start())
	defer scheduler.Shutdown()
	defer d.serve(asynq.Config{}, func(_ context.Context, task *asynq.Task) error {
		d.note(task)
		return nil
	})()
	d.waitFor(1)
	sleep()
	d.waitFor(2)
}

func tasksAreCancelledAndDeleted() {
	d := open()
	defer d.close()
	cancelled := make(chan error, 1)
	d.enqueue("long", asynq.TaskID("long"), asynq.MaxRetry(0))
	defer d.serve(asynq.Config{}, func(c context.Context, _ *asynq.Task) error {
		<-c.Done()
		cancelled <- c.Err()
		return c.Err()
	})()
	until("it runs", func() bool { return value(d.inspector.GetQueueInfo("default")).Active == 1 })
	sleep()
	// The server may not have subscribed yet.
	until("it is cancelled", func() bool {
		must(d.inspector.CancelProcessing("long"))
		select {
		case <-cancelled:
			return true
		default:
			return false
		}
	})
	until("it is archived", func() bool { return value(d.inspector.GetQueueInfo("default")).Archived == 1 })
	sleep()
	must(d.inspector.DeleteTask("default", "long"))
	equal("archived", value(d.inspector.GetQueueInfo("default")).Archived, 0)
	equal("servers", len(value(d.inspector.Servers())), 1)
}
