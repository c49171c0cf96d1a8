-- Removes a namespace. KEYS and the answer as in write.lua · ARGV: token, namespace.
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return {3, 0} end
redis.call('UNLINK', KEYS[4], KEYS[5])
redis.call('SREM', KEYS[2], ARGV[2])
return {0, redis.call('INCR', KEYS[3])}
