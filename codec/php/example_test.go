package php_test

import (
	"fmt"

	"github.com/chanmq/chanmq/codec/php"
)

// msg_send($queue, 1, ["id" => 7, "price" => 9.5]) in PHP.
func ExampleSerialize() {
	type Order struct {
		ID    int     `php:"id"`
		Price float64 `php:"price"`
	}
	c := php.Serialize[Order]()
	text, err := c.Append(nil, Order{7, 9.5})
	fmt.Printf("%s %v\n", text, err)

	var v Order
	err = c.Decode([]byte(`a:2:{s:2:"id";i:8;s:5:"price";d:0.1;}`), &v)
	fmt.Printf("%+v %v\n", v, err)
	// Output:
	// a:2:{s:2:"id";i:7;s:5:"price";d:9.5;} <nil>
	// {ID:8 Price:0.1} <nil>
}
