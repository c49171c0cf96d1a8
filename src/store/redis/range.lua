-- Reads a range. KEYS: keys, values · ARGV: least, greatest, limit. Answers keys and values in turns.
local keys = redis.call('ZRANGEBYLEX', KEYS[1], ARGV[1], ARGV[2], 'LIMIT', 0, ARGV[3])
local pairs = {}
-- Lua's stack takes some thousand arguments.
for first = 1, #keys, 1000 do
  local last = math.min(first + 999, #keys)
  local values = redis.call('HMGET', KEYS[2], unpack(keys, first, last))
  for i = first, last do
    pairs[2 * i - 1] = keys[i]
    pairs[2 * i] = values[i - first + 1]
  end
end
return pairs
