// Runs contenders of go-zookeeper's lock, and measures them in this process: `driver SESSION_MILLISECONDS`. Serves the
// requests that `src/driver/mod.rs` describes. Each contender has a goroutine, and its own lock object.
package main

import (
	"bufio"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"github.com/samuel/go-zookeeper/zk"
)

// What the contenders since the last close have done.
type counts struct {
	cycles, last, closing int64
	failure               atomic.Value
}

var (
	session time.Duration
	conns   []*zk.Conn
	held    = map[string]*zk.Lock{}
	now     = new(counts)
	acl     = zk.WorldACL(zk.PermAll)
)

func main() {
	milliseconds, _ := strconv.Atoi(os.Args[1])
	session = time.Duration(milliseconds) * time.Millisecond
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		numbers, err := carryOut(strings.Fields(lines.Text()))
		if err != nil {
			fmt.Println("error", strings.ReplaceAll(err.Error(), "\n", " "))
			continue
		}
		fmt.Println(strings.TrimSpace("ok " + strings.Trim(fmt.Sprint(numbers), "[]")))
	}
}

func carryOut(words []string) ([]int64, error) {
	switch words[0] {
	case "connect":
		closeAll()
		return nil, connect(strings.Split(words[1], ","), number(words[2]))
	case "start":
		for each := 0; each < number(words[2]); each++ {
			go cycle(zk.NewLock(conns[each%len(conns)], words[1], acl), now)
		}
		return nil, nil
	case "count":
		if failure := now.failure.Load(); failure != nil {
			return nil, fmt.Errorf("%v", failure)
		}
		last := atomic.LoadInt64(&now.last)
		return []int64{atomic.LoadInt64(&now.cycles), last}, nil
	case "acquire":
		lock := zk.NewLock(conns[0], words[1], acl)
		if err := lock.Lock(); err != nil {
			return nil, err
		}
		granted := monotonic()
		held[words[1]] = lock
		return []int64{granted}, nil
	case "release":
		begun := monotonic()
		return []int64{begun}, held[words[1]].Unlock()
	case "wait":
		for each := 0; each < number(words[2]); each++ {
			go hold(zk.NewLock(conns[0], fmt.Sprintf("%s/%05d", words[1], each), acl), now)
		}
		return nil, nil
	case "close":
		closeAll()
		return nil, nil
	}
	return nil, fmt.Errorf("no such request: %v", words)
}

func connect(servers []string, sessions int) error {
	for each := 0; each < sessions; each++ {
		conn, events, err := zk.Connect(servers, session, zk.WithLogInfo(false))
		if err != nil {
			return err
		}
		conns = append(conns, conn)
		for event := range events {
			if event.State == zk.StateHasSession {
				break
			}
		}
	}
	return nil
}

func cycle(lock *zk.Lock, own *counts) {
	for atomic.LoadInt64(&own.closing) == 0 {
		err := lock.Lock()
		if err == nil {
			err = lock.Unlock()
		}
		if err != nil {
			own.fail(err)
			return
		}
		atomic.AddInt64(&own.cycles, 1)
		atomic.StoreInt64(&own.last, monotonic())
	}
}

func hold(lock *zk.Lock, own *counts) {
	if err := lock.Lock(); err != nil {
		own.fail(err)
	}
}

func (own *counts) fail(err error) {
	if atomic.LoadInt64(&own.closing) == 0 {
		own.failure.Store(err.Error())
	}
}

func closeAll() {
	atomic.StoreInt64(&now.closing, 1)
	var closed sync.WaitGroup
	for _, conn := range conns {
		closed.Add(1)
		go func(conn *zk.Conn) {
			conn.Close()
			closed.Done()
		}(conn)
	}
	closed.Wait()
	conns, held, now = nil, map[string]*zk.Lock{}, new(counts)
}

func number(word string) int {
	value, _ := strconv.Atoi(word)
	return value
}

// The clock that all processes share.
func monotonic() int64 {
	var time syscall.Timespec
	syscall.Syscall(syscall.SYS_CLOCK_GETTIME, 1, uintptr(unsafe.Pointer(&time)), 0)
	return time.Nano()
}
