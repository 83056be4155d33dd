<?php
// The values that the tests send in both directions, by the names of the tests.
class Order
{
    public $id = 7;
    protected $name = 'tea';
    private $price = 4.5;
}

return [
    'int' => -42,
    'float' => 0.1,
    'string' => "Z\u{fc}rich\0;\"",
    'true' => true,
    'false' => false,
    'null' => null,
    'list' => [3, 1, 2],
    'map' => ['a' => 1, 'b' => 2],
    'struct' => ['id' => 7, 'name' => 'tea', 'price' => 4.5],
    'nested' => ['orders' => [['id' => 7, 'name' => 'tea', 'price' => 4.5]], 'paid' => false],
    'any' => ['a' => [1, 2.5, 'x', null, true]],
    'largest' => str_repeat('x', 8192 - strlen('s:8181:"";')), // 8192 bytes when serialized
    'object' => new Order(),
];
