-- Applies a batch.
-- KEYS: owner, namespaces, sequence, keys, values · ARGV: token, namespace, fence or '', conditions, ops, then three for each
-- of them: key, '1' or '0', value · 'p' or 'r', key, value.
-- Answers {code, sequence}: 0 done · 1 conflict · 2 fenced · 3 not the owner.
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return {3, 0} end

-- Tokens are twenty digits: more than a Lua number holds, so in halves.
local function less(a, b)
  local high_a, high_b = tonumber(string.sub(a, 1, 10)), tonumber(string.sub(b, 1, 10))
  if high_a ~= high_b then return high_a < high_b end
  return tonumber(string.sub(a, 11)) < tonumber(string.sub(b, 11))
end

local raised = false
if ARGV[3] ~= '' then
  local seen = redis.call('HGET', KEYS[5], '\255\255fence') or '00000000000000000000'
  if less(ARGV[3], seen) then return {2, 0} end
  raised = less(seen, ARGV[3])
end
local at = 6
for _ = 1, tonumber(ARGV[4]) do
  local held = redis.call('HGET', KEYS[5], ARGV[at])
  if ARGV[at + 1] == '1' then
    if held ~= ARGV[at + 2] then return {1, 0} end
  elseif held then
    return {1, 0}
  end
  at = at + 3
end
local ops = tonumber(ARGV[5])
if ops == 0 and not raised then return {0, 0} end
redis.call('SADD', KEYS[2], ARGV[2])
for _ = 1, ops do
  local key = ARGV[at + 1]
  if ARGV[at] == 'p' then
    if redis.call('HSET', KEYS[5], key, ARGV[at + 2]) == 1 then redis.call('ZADD', KEYS[4], 0, key) end
  elseif redis.call('HDEL', KEYS[5], key) == 1 then
    redis.call('ZREM', KEYS[4], key)
  end
  at = at + 3
end
if raised then redis.call('HSET', KEYS[5], '\255\255fence', ARGV[3]) end
return {0, redis.call('INCR', KEYS[3])}
