-- Renews the lease, or ends it. KEYS: owner, lease · ARGV: token, uid, lease in ms (0: end it). Answers 1, or 0: not the owner.
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
if ARGV[3] == '0' then
  redis.call('DEL', KEYS[2])
else
  redis.call('SET', KEYS[2], ARGV[2], 'PX', ARGV[3])
end
return 1
