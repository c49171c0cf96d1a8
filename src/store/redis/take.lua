-- Makes this connection the one that may write.
-- KEYS: owner, lease, schema, sequence · ARGV: uid, number of the connection, lease in ms, schema, '1' while the gateway opens the store
-- Answers {code, detail}: 0 and the sequence · 1 newer schema · 2 held by another · 3 the data are gone · 4 taken by another
-- · 5 a later connection was faster.
local schema = redis.call('GET', KEYS[3])
if schema and tonumber(schema) > tonumber(ARGV[4]) then return {1, tonumber(schema)} end
local owner = redis.call('GET', KEYS[1])
if ARGV[5] == '1' then
  local lease = redis.call('GET', KEYS[2])
  if lease and lease ~= ARGV[1] then return {2, 0} end
elseif not owner then
  return {3, 0}
end
if owner then
  local uid, number = string.match(owner, '^(.*):(%d+)$')
  if uid == ARGV[1] then
    if tonumber(number) >= tonumber(ARGV[2]) then return {5, 0} end
  elseif ARGV[5] ~= '1' then
    return {4, 0}
  end
end
redis.call('SET', KEYS[1], ARGV[1] .. ':' .. ARGV[2])
redis.call('SET', KEYS[2], ARGV[1], 'PX', ARGV[3])
if not schema then redis.call('SET', KEYS[3], ARGV[4]) end
return {0, tonumber(redis.call('GET', KEYS[4]) or '0')}
