// SPDX-License-Identifier: Apache-2.0

// front_go PORT LEAF keep|close goroutines|pool: net/http. goroutines: each call is made three goroutines below the
// handler's. pool: by workers that take it from a channel, fewer than the load.
package main

import (
	"fmt"
	"io"
	"log"
	"net/http"
	"os"
	"strings"
	"time"
)

type job struct {
	number, what string
	which        int
	done         chan<- int
}

var (
	leaf   string
	client *http.Client
	jobs   = make(chan job, 64)
	submit func(job)
)

func call(number string, which int, what string) int {
	url := fmt.Sprintf("http://127.0.0.1:%s/leaf/%s/%d", leaf, number, which)
	if what != "" {
		url += "?do=" + what
	}
	request, err := http.NewRequest("GET", url, nil)
	if err != nil {
		log.Fatal(err)
	}
	request.Header.Set("x-truth", fmt.Sprintf("%s/%d", number, which))
	response, err := client.Do(request)
	if err != nil {
		log.Print(err)
		return 0
	}
	defer response.Body.Close()
	io.Copy(io.Discard, response.Body)
	return response.StatusCode
}

func work(j job) { j.done <- call(j.number, j.which, j.what) }

func deep(j job) {
	go func() {
		passed := make(chan job)
		go func() {
			time.Sleep(time.Millisecond) // as a cache is asked before the call
			go work(<-passed)
		}()
		passed <- j
	}()
}

func start(number string, which int, what string) <-chan int {
	done := make(chan int, 1)
	submit(job{number, what, which, done})
	return done
}

func statuses(number, shape string) []int {
	switch shape {
	case "seq":
		return []int{<-start(number, 1, ""), <-start(number, 2, "")}
	case "par":
		one, two := start(number, 1, ""), start(number, 2, "")
		return []int{<-one, <-two}
	case "retry":
		status := <-start(number, 1, "fail")
		if status == 503 {
			status = <-start(number, 1, "fail")
		}
		return []int{status}
	case "slow":
		return []int{<-start(number, 1, "slow")}
	}
	return []int{<-start(number, 1, "")}
}

func front(response http.ResponseWriter, request *http.Request) {
	number := request.URL.Path[strings.LastIndex(request.URL.Path, "/")+1:]
	status := 200
	for _, got := range statuses(number, request.URL.Query().Get("mode")) {
		if got != 200 {
			status = 502
		}
	}
	response.WriteHeader(status)
	fmt.Fprintln(response, number)
}

func main() {
	leaf = os.Args[2]
	transport := &http.Transport{MaxIdleConnsPerHost: 600, DisableKeepAlives: os.Args[3] == "close"}
	client = &http.Client{Transport: transport}
	submit = deep
	if os.Args[4] == "pool" {
		submit = func(j job) { jobs <- j }
		for range 16 {
			go func() {
				for j := range jobs {
					work(j)
				}
			}()
		}
	}
	log.Fatal(http.ListenAndServe("127.0.0.1:"+os.Args[1], http.HandlerFunc(front)))
}
