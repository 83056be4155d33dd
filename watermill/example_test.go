//go:build linux

package watermill_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/ThreeDotsLabs/watermill/pubsub/gochannel"
	"github.com/nats-io/nats.go"

	"github.com/chanmq/chanmq"
	"github.com/chanmq/chanmq/natsmq"
	chanmqwatermill "github.com/chanmq/chanmq/watermill"
)

// A Router whose handlers have a queue each.
func Example() {
	// Programs with queues that others know call chanmq.Create, and not WithRemoveOnClose.
	orders, err1 := chanmq.Private(0o600, chanmq.WithJournal(""), chanmq.WithRemoveOnClose())
	bills, err2 := chanmq.Private(0o600, chanmq.WithJournal(""), chanmq.WithRemoveOnClose())
	if err := errors.Join(err1, err2); err != nil {
		log.Fatal(err)
	}
	topics := chanmqwatermill.Queues(map[string]*chanmq.Queue[[]byte]{"orders": orders, "bills": bills})
	publisher := chanmqwatermill.NewPublisher(topics)
	subscriber := chanmqwatermill.NewSubscriber(topics)

	router, err := message.NewRouter(message.RouterConfig{}, watermill.NopLogger{})
	if err != nil {
		log.Fatal(err)
	}
	router.AddHandler("billing", "orders", subscriber, "bills", publisher,
		func(order *message.Message) ([]*message.Message, error) {
			bill := message.NewMessage(watermill.NewUUID(), []byte("bill for "+string(order.Payload)))
			return message.Messages{bill}, nil
		})
	printed := make(chan struct{})
	router.AddConsumerHandler("printer", "bills", subscriber, func(bill *message.Message) error {
		defer close(printed)
		fmt.Printf("%s\n", bill.Payload)
		return nil
	})
	stopped := make(chan error)
	go func() { stopped <- router.Run(context.Background()) }()

	if err := publisher.Publish("orders", message.NewMessage(watermill.NewUUID(), []byte("two lamps"))); err != nil {
		log.Print(err) // such as: the message is too large
	}
	<-printed

	// The Router closes its subscribers, and Close waits for that. The queues are the program's, and come last.
	ending, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	if err := errors.Join(router.Close(), <-stopped, subscriber.Close(), publisher.Close(), orders.Shutdown(ending), bills.Shutdown(ending)); err != nil {
		log.Print(err)
	}
	// Output: bill for two lamps
}

// The topics are queues of a cluster, which any number of machines share: see natsmq.
func ExampleKeys_cluster() {
	nc, err := nats.Connect("nats://a:4222,nats://b:4222,nats://c:4222", nats.ReconnectBufSize(-1), nats.MaxReconnects(-1))
	if err != nil {
		log.Fatal(err)
	}
	defer nc.Close()
	cluster, err := natsmq.New(nc, natsmq.WithReplicas(3))
	if err != nil {
		log.Fatal(err)
	}
	topics := chanmqwatermill.Keys(map[string]chanmq.Key{"orders": 0x2a01, "bills": 0x2a02}, 0o600, cluster.Option())
	publisher, subscriber := chanmqwatermill.NewPublisher(topics), chanmqwatermill.NewSubscriber(topics)

	// They are used as on the kernel. The Cluster is closed after them, and the connection at last.
	if err := errors.Join(publisher.Close(), subscriber.Close(), cluster.Close()); err != nil {
		log.Print(err)
	}
}

// What C programs send to a queue goes to another engine of Watermill: here it is the one in
// memory, and may as well be Kafka.
func ExampleToPublisher() {
	q, err := chanmq.Private(0o600, chanmq.WithRemoveOnClose())
	if err != nil {
		log.Fatal(err)
	}
	defer q.Close()
	kafka := gochannel.NewGoChannel(gochannel.Config{}, watermill.NopLogger{})
	defer kafka.Close()
	ctx, cancel := context.WithCancel(context.Background())
	readings, err := kafka.Subscribe(ctx, "readings")
	if err != nil {
		log.Fatal(err)
	}

	ended := make(chan error)
	go func() {
		ended <- chanmqwatermill.ToPublisher(ctx, q, chanmq.OfType(1), kafka, "readings",
			chanmqwatermill.WithMarshaler(chanmqwatermill.Plain{}))
	}()

	if err := q.Send(ctx, 1, []byte("21.5 C")); err != nil { // as msgsnd(2) does it
		log.Print(err)
	}
	msg := <-readings
	fmt.Printf("%s\n", msg.Payload)
	msg.Ack()

	cancel()
	fmt.Println(errors.Is(<-ended, context.Canceled))
	// Output:
	// 21.5 C
	// true
}

// What another engine of Watermill delivers goes to a queue, for C programs.
func ExampleFromSubscriber() {
	q, err := chanmq.Private(0o600, chanmq.WithRemoveOnClose())
	if err != nil {
		log.Fatal(err)
	}
	defer q.Close()
	kafka := gochannel.NewGoChannel(gochannel.Config{Persistent: true}, watermill.NopLogger{})
	defer kafka.Close()
	if err := kafka.Publish("setpoints", message.NewMessage(watermill.NewUUID(), []byte("19.0 C"))); err != nil {
		log.Print(err)
	}

	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error)
	go func() {
		ended <- chanmqwatermill.FromSubscriber(ctx, kafka, "setpoints", q, 2,
			chanmqwatermill.WithMarshaler(chanmqwatermill.Plain{}),
			chanmqwatermill.WithUnsendable(func(msg *message.Message, err error) error {
				log.Printf("%d bytes are dropped: %v", len(msg.Payload), err)
				return nil
			}))
	}()

	m, err := q.Receive(ctx, chanmq.Any()) // as msgrcv(2) does it
	if err != nil {
		log.Print(err)
	}
	fmt.Printf("type %d: %s\n", m.Type, m.Value)

	cancel()
	fmt.Println(errors.Is(<-ended, context.Canceled))
	// Output:
	// type 2: 19.0 C
	// true
}
