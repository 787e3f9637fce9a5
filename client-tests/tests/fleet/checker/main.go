// Reads operations on registers and counters from standard input, one JSON object a line, and has porcupine look for an
// order that explains them. The exit code is 1 if there is none, and the output names the keys.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"sort"
	"strconv"
	"time"

	"github.com/anishathalye/porcupine"
)

// limit is the longest search for the order of one key.
const limit = 60 * time.Second

type operation struct {
	Client int    `json:"client"`
	Key    string `json:"key"`
	Kind   string `json:"kind"`
	Input  string `json:"input"`
	Known  bool   `json:"known"`
	Output string `json:"output"`
	Call   int64  `json:"call"`
	Return int64  `json:"return"`
}

// model has one key. Its state is its value; an empty text is no value.
var model = porcupine.Model{
	Init: func() interface{} { return "" },
	Step: func(state, input, output interface{}) (bool, interface{}) {
		value, op := state.(string), input.(operation)
		switch op.Kind {
		case "get":
			return op.Output == value, value
		case "set":
			return !op.Known || op.Output == "OK", op.Input
		case "incr":
			number, err := strconv.ParseInt("0"+value, 10, 64)
			next := strconv.FormatInt(number+1, 10)
			return err == nil && (!op.Known || op.Output == next), next
		}
		panic("an operation of kind " + op.Kind)
	},
	DescribeOperation: func(input, output interface{}) string {
		op := input.(operation)
		if !op.Known {
			return fmt.Sprintf("%s %s -> no answer", op.Kind, op.Input)
		}
		return fmt.Sprintf("%s %s -> %q", op.Kind, op.Input, op.Output)
	},
}

// relevant leaves out operations that say nothing: reads without an answer, and writes without an answer whose value no read
// has seen. If there is an order without such a write, there is one with it at the end; if there is one with it, the next
// write of another value follows before any read, so that it can be left out.
func relevant(all []operation) []operation {
	seen := map[string]bool{}
	for _, op := range all {
		if op.Kind == "get" && op.Known {
			seen[op.Output] = true
		}
	}
	var kept []operation
	for _, op := range all {
		if op.Known || op.Kind == "incr" || op.Kind == "set" && seen[op.Input] {
			kept = append(kept, op)
		}
	}
	return kept
}

func history(all []operation) []porcupine.Operation {
	var converted []porcupine.Operation
	for number, op := range relevant(all) {
		end := op.Return
		client := op.Client
		if !op.Known {
			// It may be carried out at any time from now on, beside its client's next ones.
			end, client = math.MaxInt64, 1_000_000+number
		}
		converted = append(converted, porcupine.Operation{ClientId: client, Input: op, Call: op.Call, Return: end})
	}
	return converted
}

func main() {
	keys := map[string][]operation{}
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		var op operation
		if err := json.Unmarshal(lines.Bytes(), &op); err != nil {
			fmt.Println(err)
			os.Exit(2)
		}
		keys[op.Key] = append(keys[op.Key], op)
	}
	var names []string
	for name := range keys {
		names = append(names, name)
	}
	sort.Strings(names)
	code := 0
	for _, name := range names {
		operations := history(keys[name])
		result, info := porcupine.CheckOperationsVerbose(model, operations, limit)
		if result == porcupine.Ok {
			continue
		}
		code = 1
		fmt.Printf("%s: %s, %d operations\n", name, result, len(operations))
		longest := 0
		for _, partition := range info.PartialLinearizationsOperations() {
			for _, partial := range partition {
				longest = max(longest, len(partial))
			}
		}
		fmt.Printf("  the longest order found has %d; operations around its end, by the time of their call:\n", longest)
		sort.SliceStable(operations, func(a, b int) bool { return operations[a].Call < operations[b].Call })
		for at := max(0, longest-12); at < min(len(operations), longest+12); at++ {
			op := operations[at].Input.(operation)
			end := strconv.FormatInt(op.Return/1000, 10)
			if !op.Known {
				end = "?"
			}
			fmt.Printf("  client %d, %d..%s us: %s\n", op.Client, op.Call/1000, end, model.DescribeOperation(op, nil))
		}
	}
	os.Exit(code)
}
